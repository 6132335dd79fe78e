"""The choice of tiles, and that they cover the matrix."""

from __future__ import annotations

import pytest
import torch
from pair_losses import unit

from diptych.base.errors import UserError
from diptych.loss import ContrastiveLoss, MultiPositiveLoss, SigLIPLoss
from diptych.loss.logits import choose_tile, logit_tiles


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
