"""The loss against the paper's pseudo-code, in low precision, and with several positives for each row."""

from __future__ import annotations

import pair_losses
import pytest
import torch
import torch.nn.functional as F
from pair_losses import difference, gradients, unit

from diptych.base.errors import UserError
from diptych.loss import ContrastiveLoss, MultiPositiveLoss, contrastive_loss
from diptych.loss.contrastive import mean_of_positives, positive_shares

TILES = [None, 4]


def test_equals_figure_3_of_the_paper() -> None:
    image, text, scale = unit(7, 5, 0), unit(7, 5, 1), torch.tensor(14.3, dtype=torch.float64)
    logits = (image @ text.T) * scale
    expected = 0.0
    for i in range(7):
        expected -= (logits[i, i] - logits[i].logsumexp(0)) / 14
        expected -= (logits[i, i] - logits[:, i].logsumexp(0)) / 14
    torch.testing.assert_close(contrastive_loss(image, text, scale), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tile", [None, 1, 4, 30])
def test_smoothing_is_a_share_of_the_target_for_all_pairs(tile: int | None) -> None:
    given = (unit(11, 6, 0), unit(11, 6, 1), torch.tensor(9.0, dtype=torch.float64))
    ours = gradients(lambda *x: contrastive_loss(*x, tile=tile, smoothing=0.2), *given)
    for found, expected in zip(ours, gradients(lambda *x: pair_losses.clip(*x, smoothing=0.2), *given), strict=True):
        assert difference(found, expected) < 1e-13


@pytest.mark.parametrize("tile", TILES)
def test_gradients_are_the_numerical_ones(tile: int | None) -> None:
    image, text = unit(4, 3, 2).requires_grad_(), unit(4, 3, 3).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ContrastiveLoss(tile, 0.1), (image, text, scale))


@pytest.mark.parametrize("tile", TILES)
def test_perfect_and_collapsed_features(tile: int | None) -> None:
    eye, same = torch.eye(6), F.normalize(torch.ones(6, 6), dim=1)
    perfect, *gains = gradients(lambda *x: contrastive_loss(*x, tile=tile), eye, eye, torch.tensor(100.0))
    assert perfect.abs() < 1e-6
    collapsed, *losses = gradients(lambda *x: contrastive_loss(*x, tile=tile), same, same, torch.tensor(100.0))
    torch.testing.assert_close(collapsed, torch.tensor(6.0).log(), rtol=1e-5, atol=0)
    for gradient in (*gains, *losses):
        assert gradient.abs().max() < 1e-4  # of a scale of 100


def test_logits_stay_fp32_under_autocast() -> None:
    image, text = unit(64, 32, 4).float().requires_grad_(), unit(64, 32, 5).float()
    contrastive_loss(image, text, torch.tensor(100.0)).backward()
    exact, image.grad = image.grad.clone(), None
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(image, text, torch.tensor(100.0))
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(image.grad, exact, rtol=1e-6, atol=1e-9)


GROUPS = torch.tensor([4, 1, 4, 0, 7, 4, -2, 1, 2**40, 8, 9])
SCALE = torch.tensor(9.0, dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tile", [None, 1, 4, 30])
def test_groups_equal_the_formula(tile: int | None, smoothing: float) -> None:
    given = (unit(11, 6, 0), unit(11, 6, 1), SCALE, GROUPS)
    ours = gradients(lambda *x: contrastive_loss(*x, tile=tile, smoothing=smoothing), *given)
    theirs = gradients(lambda *x: pair_losses.multi_positive(*x, smoothing=smoothing), *given)
    for found, expected in zip(ours, theirs, strict=True):
        assert difference(found, expected) < 1e-13


@pytest.mark.parametrize("tile", [None, 4])
def test_distinct_groups_are_clips_loss_to_the_last_digit(tile: int | None) -> None:
    given = (unit(11, 6, 0).float(), unit(11, 6, 1).float(), SCALE.float())
    clip = gradients(ContrastiveLoss(tile, 0.1), *given)
    groups = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    ours = gradients(lambda *x: MultiPositiveLoss(tile, 0.1)(*x, groups), *given)
    for found, expected in zip(ours, clip, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_least_value_is_the_targets_entropy() -> None:
    """Two concepts of three pairs each, told apart perfectly: log 3 is left, and there is nothing to gain."""
    groups = torch.tensor([0, 1, 0, 1, 0, 1])
    corners = torch.eye(2, dtype=torch.float64)[groups]
    loss, of_image, *_ = gradients(MultiPositiveLoss(), corners, corners, torch.tensor(100.0), groups)
    torch.testing.assert_close(loss, torch.tensor(3.0, dtype=torch.float64).log(), rtol=1e-12, atol=0)
    assert of_image.abs().max() < 1e-12
    assert ContrastiveLoss()(corners, corners, torch.tensor(100.0)) == loss  # what it punishes can't be helped


def test_means_of_positives_need_no_matrix() -> None:
    x = unit(11, 6, 0)
    torch.testing.assert_close(mean_of_positives(x, GROUPS), positive_shares(GROUPS, x.dtype) @ x)


def test_without_groups_it_says_what_to_type() -> None:
    with pytest.raises(UserError, match=r"data\.groups=FIELD"):
        MultiPositiveLoss()(unit(2, 3, 0), unit(2, 3, 1), SCALE)
