"""The sigmoid loss against its formula, at its extremes, and in training."""

from __future__ import annotations

import pair_losses
import pytest
import torch
import torch.nn.functional as F
from pair_losses import difference, gradients, unit

from diptych.loss import SigLIPLoss, siglip_loss

SCALE, BIAS = (torch.tensor(x, dtype=torch.float64) for x in (9.0, -3.0))


@pytest.mark.parametrize("tile", [None, 1, 4, 30])
def test_equals_the_paper(tile: int | None) -> None:
    given = (unit(11, 6, 0), unit(11, 6, 1), SCALE, BIAS)
    ours = gradients(lambda *x: siglip_loss(*x, tile=tile), *given)
    for found, expected in zip(ours, gradients(pair_losses.siglip, *given), strict=True):
        assert difference(found, expected) < 1e-13


def test_gradients_are_the_numerical_ones() -> None:
    given = [x.requires_grad_() for x in (unit(5, 3, 0), unit(5, 3, 1), SCALE.clone(), BIAS.clone())]
    assert torch.autograd.gradcheck(lambda *x: siglip_loss(*x, tile=2), given)


@pytest.mark.parametrize("bias", [-100.0, 0.0, 100.0])
def test_extreme_logits_are_finite_and_exact_in_fp32(bias: float) -> None:
    same = F.normalize(torch.ones(6, 6), dim=1)
    for image in (torch.eye(6), same, -same):
        exact = gradients(pair_losses.siglip, *(x.double() for x in (image, same, SCALE, torch.tensor(bias))))
        given = (image, same, SCALE.float(), torch.tensor(bias))
        ours = gradients(lambda *x: siglip_loss(*x, tile=4), *given)
        for found, expected in zip(ours, exact, strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_bias_is_learned_and_starts_where_nearly_all_pairs_are_negatives() -> None:
    loss = SigLIPLoss()
    assert dict(loss.named_parameters()).keys() == {"logit_bias"}
    value = loss(unit(32, 16, 0).float(), unit(32, 16, 1).float(), torch.tensor(10.0))
    value.backward()
    assert float(loss.logit_bias) == -10.0 and 8 < value.item() < 12  # one positive of logit near -10 a row
    assert float(loss.logit_bias.grad) < -0.9
