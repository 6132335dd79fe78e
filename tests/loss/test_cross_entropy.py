"""Phrase cross-entropy against torch's, and over ranks against one process."""

from __future__ import annotations

from typing import Any

import pair_losses
import pytest
import torch
from gloo import on_ranks
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from diptych.base.errors import UserError
from diptych.loss.cross_entropy import PhraseCrossEntropy


def batch(rows: int = 8, phrases: int = 6) -> tuple[Tensor, Tensor]:
    text = (torch.rand(rows, phrases, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    text[:, 0] += text.sum(dim=1) == 0
    return pair_losses.unit(rows, phrases, 0), normalize(text, dim=1)


def test_one_phrase_a_row_is_the_classifiers_cross_entropy() -> None:
    image, labels = pair_losses.unit(8, 6, 0), torch.arange(8) % 6
    found = PhraseCrossEntropy()(image, torch.eye(6).double()[labels], torch.tensor(9.0).double())
    assert found.item() == pytest.approx(cross_entropy(9 * image, labels).item(), rel=1e-12)


def test_several_phrases_share_the_target_and_a_row_without_one_adds_nothing() -> None:
    image, text = batch()
    scale = torch.tensor(9.0).double()
    expected = cross_entropy(9 * image, text / text.sum(dim=1, keepdim=True))
    assert PhraseCrossEntropy()(image, text, scale).item() == pytest.approx(expected.item(), rel=1e-12)
    text[3] = 0
    image.requires_grad_(True)
    PhraseCrossEntropy()(image, text, scale).backward()
    assert image.grad is not None and image.grad.isfinite().all() and not image.grad[3].any()


def test_smoothing_is_the_librarys_and_a_row_without_a_phrase_still_adds_nothing() -> None:
    image, text = batch()
    scale = torch.tensor(9.0).double()
    expected = cross_entropy(9 * image, text / text.sum(dim=1, keepdim=True), label_smoothing=0.2)
    assert PhraseCrossEntropy(smoothing=0.2)(image, text, scale).item() == pytest.approx(expected.item(), rel=1e-12)
    assert PhraseCrossEntropy(smoothing=0.2)(image, torch.zeros_like(text), scale).item() == 0
    with pytest.raises(UserError, match=r"loss\.smoothing=1 must be"):
        PhraseCrossEntropy(smoothing=1)


def test_bfloat16_is_computed_in_float32() -> None:
    image, text = (each.bfloat16() for each in batch())
    found = PhraseCrossEntropy()(image, text, torch.tensor(9.0))
    assert found.dtype == torch.float32


def share(rank: int, world: int) -> dict[str, Any]:
    image, text = (each.chunk(world)[rank].clone().requires_grad_(True) for each in batch())
    loss = PhraseCrossEntropy()(image, text, torch.tensor(9.0).double())
    loss.backward()
    return {"loss": loss.detach(), "gradient": image.grad}


def test_the_mean_over_ranks_is_the_global_batchs() -> None:
    image, text = batch()
    image.requires_grad_(True)
    loss = PhraseCrossEntropy()(image, text, torch.tensor(9.0).double())
    loss.backward()
    found = on_ranks(2, share)
    assert sum(each["loss"] for each in found).item() / 2 == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(
        torch.cat([each["gradient"] for each in found]) / 2, image.grad, rtol=1e-12, atol=1e-15
    )
