"""The loss against the paper's pseudo-code, and in low precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from diptych.loss import ContrastiveLoss, contrastive_loss


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=1)


def test_equals_figure_3_of_the_paper() -> None:
    image, text, scale = unit(7, 5, 0), unit(7, 5, 1), torch.tensor(14.3, dtype=torch.float64)
    logits = (image @ text.T) * scale
    expected = 0.0
    for i in range(7):
        expected -= (logits[i, i] - logits[i].logsumexp(0)) / 14
        expected -= (logits[i, i] - logits[:, i].logsumexp(0)) / 14
    torch.testing.assert_close(contrastive_loss(image, text, scale), expected, rtol=1e-12, atol=0)


def test_gradients_are_the_numerical_ones() -> None:
    image, text = unit(4, 3, 2).requires_grad_(), unit(4, 3, 3).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ContrastiveLoss(), (image, text, scale))


def test_perfect_and_collapsed_features() -> None:
    eye = torch.eye(6)
    assert contrastive_loss(eye, eye, torch.tensor(100.0)) < 1e-6
    same = F.normalize(torch.ones(6, 6), dim=1)
    torch.testing.assert_close(contrastive_loss(same, same, torch.tensor(50.0)), torch.tensor(6.0).log())


def test_logits_stay_fp32_under_autocast() -> None:
    image, text = unit(64, 32, 4).float().requires_grad_(), unit(64, 32, 5).float()
    contrastive_loss(image, text, torch.tensor(100.0)).backward()
    exact, image.grad = image.grad.clone(), None
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(image, text, torch.tensor(100.0))
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(image.grad, exact, rtol=1e-6, atol=1e-9)
