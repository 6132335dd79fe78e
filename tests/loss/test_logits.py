"""Tiles: their choice, that they cover the matrix, and exact log-sum-exps over them without all logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pair_losses import difference, unit
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.base.errors import UserError
from diptych.loss import ContrastiveLoss, MultiPositiveLoss, SigLIPLoss, contrastive_loss, siglip_loss
from diptych.loss.logits import choose_tile, log_sum_exps, logit_tiles


def test_auto_is_dense_while_the_logits_are_small() -> None:
    for rows, columns, dtype, dense in (
        (4096, 4096, torch.float32, True),  # 64 MiB
        (4096, 4097, torch.float32, False),
        (4096, 4096, torch.float64, False),
        (256, 65536, torch.float32, True),
    ):
        assert (choose_tile("auto", rows, columns, dtype, "cpu") is None) == dense
    assert choose_tile("auto", 2**15, 2**15, torch.float32, "cpu") == 1024
    assert choose_tile("auto", 2**15, 2**15, torch.float32, "cuda") == 4096
    assert choose_tile(7, 2, 2, torch.float32, "cpu") == 7
    assert choose_tile(None, 2**15, 2**15, torch.float32, "cpu") is None


def test_what_the_log_says() -> None:
    assert ContrastiveLoss().describe(256, 2, "cpu") == "256 × 512 logits (1 MB), dense"
    assert MultiPositiveLoss().describe(2**15, 1, "cpu") == "32,768 × 32,768 logits (4,295 MB), in tiles of 1,024"
    assert SigLIPLoss(64).describe(256, 2, "cpu") == "256 × 256 logits (0 MB), in tiles of 64"


@pytest.mark.parametrize("side", [1, 3, 5, 100])
def test_tiles_cover_the_matrix_once(side: int) -> None:
    left, right = unit(7, 4, 0), unit(5, 4, 1)
    whole = torch.full((7, 5), torch.nan, dtype=torch.float64)
    for rows, columns, logits, scratch in logit_tiles(left, right, side):
        assert whole[rows, columns].isnan().all()
        assert logits.shape == scratch.shape == whole[rows, columns].shape
        whole[rows, columns] = logits
        scratch.zero_()
    torch.testing.assert_close(whole, left @ right.T)


@pytest.mark.parametrize("tile", [0, -1, True, 1.5, "large"])
@pytest.mark.parametrize("loss", [ContrastiveLoss, SigLIPLoss, MultiPositiveLoss])
def test_a_wrong_tile_is_a_sentence(loss: type[torch.nn.Module], tile: object) -> None:
    with pytest.raises(UserError, match=r"loss\.tile=.* must be auto"):
        loss(tile)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_so_is_a_wrong_smoothing(smoothing: float) -> None:
    with pytest.raises(UserError, match=r"loss\.smoothing="):
        ContrastiveLoss(smoothing=smoothing)


SIDES = [1, 4, 11, 30]  # of 11 rows


@pytest.mark.parametrize("tile", SIDES)
def test_equals_torchs_with_any_gradient_from_above(tile: int) -> None:
    left, right = (9 * unit(11, 6, 0)).requires_grad_(), unit(11, 6, 1).requires_grad_()
    weights = torch.randn(2, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits = left @ right.T
    expected = torch.stack([logits.logsumexp(1), logits.logsumexp(0)])
    found = torch.stack(log_sum_exps(left, right, tile))
    assert difference(found, expected) < 1e-14
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), [left, right]),
        torch.autograd.grad((expected * weights).sum(), [left, right]),
        strict=True,
    ):
        assert difference(ours, theirs) < 1e-13


@pytest.mark.parametrize("tile", [2, 5])
def test_log_sum_exps_have_the_numerical_gradients(tile: int) -> None:
    left, right = (3 * unit(5, 3, 2)).requires_grad_(), unit(5, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: log_sum_exps(*x, tile), (left, right))


def test_rows_far_below_the_rest_neither_underflow_nor_overflow() -> None:
    """One image at 100 with its text, the others at -100 with all: a shift common to a tile would leave log(0)."""
    left = torch.tensor([[100.0], [-100.0], [-100.0], [1.0]])
    right = torch.tensor([[1.0], [1.0], [1.0], [-1.0]])
    logits = left @ right.T
    for tile in (1, 2, 3, 4):
        rows, columns = log_sum_exps(left, right, tile)
        torch.testing.assert_close(rows, logits.logsumexp(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(columns, logits.logsumexp(0), rtol=1e-6, atol=0)


class Largest(TorchDispatchMode):
    """The most numbers that any operation gave."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, list | tuple) else [out]:
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


@pytest.mark.parametrize("loss", ["clip", "multi-positive", "siglip"])
def test_nothing_larger_than_features_and_two_tiles_is_ever_made(loss: str) -> None:
    n, d, tile = 96, 8, 16
    image, text = unit(n, d, 0).requires_grad_(), unit(n, d, 1).requires_grad_()
    scale, groups = torch.tensor(20.0, dtype=torch.float64), torch.arange(n) // 3
    dense, tiled = Largest(), Largest()
    for largest, side in ((dense, None), (tiled, tile)):
        with largest:
            if loss == "siglip":
                siglip_loss(image, text, scale, torch.zeros((), dtype=torch.float64), side).backward()
            else:
                contrastive_loss(
                    image, text, scale, groups if loss == "multi-positive" else None, side, 0.1
                ).backward()
    assert tiled.numbers <= max(n * d, 2 * tile * tile)
    assert dense.numbers >= n * n  # what this test would see


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_fp32_and_bf16_features_lose_no_more_than_the_dense_loss(scale: float) -> None:
    image, text = unit(300, 32, 0), unit(300, 32, 1)
    text = torch.nn.functional.normalize(image + text, dim=1)
    for dtype in (torch.float32, torch.bfloat16):
        given = [x.to(dtype) for x in (image, text)]

        def run(tile: int | None, dtype: torch.dtype, given: list[Tensor] = given) -> list[Tensor]:
            values = [x.detach().to(dtype).requires_grad_() for x in given]
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = contrastive_loss(*values, torch.tensor(scale), tile=tile)
            loss.backward()
            return [loss.detach(), *(x.grad for x in values)]

        exact, dense, tiled = run(None, torch.float64), run(None, dtype), run(64, dtype)
        assert tiled[0].dtype == torch.float32
        # The value is a difference of two logits here and of one there: fp32's last digit of a logit stays in it.
        assert abs(tiled[0] - exact[0]) < 1e-6 + 2**-24 * scale
        for best, theirs, ours in zip(exact[1:], dense[1:], tiled[1:], strict=True):
            assert difference(ours, best) < 2 * difference(theirs, best) + 1e-6
