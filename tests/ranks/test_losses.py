"""Law 1 for every loss: value and gradients on 1 to 4 gloo ranks, dense and in tiles, equal one process's formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pair_losses
import pytest
import torch
from gloo import on_ranks
from torch import Tensor, nn

from diptych.launch import distributed
from diptych.loss import ContrastiveLoss, MultiPositiveLoss, SigLIPLoss

PAIRS, D = 24, 7
TILES = [None, 1, 5, 16]  # of 24, 12, 8 and 6 rows a rank; halves of 12, 6, 4 and 3 go round each way
GROUPS = torch.tensor([3, 9, 3, 4, 5, 6, 3, 7, 7, 8, 10, 11, 3, 12, 9, 13, 14, 15, 16, 17, 3, 18, 9, 19])


def cases() -> Iterator[tuple[str, Callable[..., nn.Module], Callable[..., Tensor], bool]]:
    """name, the component for a tile, the formula, whether groups are given"""
    for smoothing in (0.0, 0.1):

        def clip(*x: Tensor, smoothing: float = smoothing) -> Tensor:
            return pair_losses.clip(*x, smoothing=smoothing)

        def positives(*x: Tensor, smoothing: float = smoothing) -> Tensor:
            return pair_losses.multi_positive(*x, smoothing=smoothing)

        def make_clip(tile: int | None, smoothing: float = smoothing) -> nn.Module:
            return ContrastiveLoss(tile, smoothing)

        def make_positives(tile: int | None, smoothing: float = smoothing) -> nn.Module:
            return MultiPositiveLoss(tile, smoothing)

        yield f"clip {smoothing}", make_clip, clip, False
        yield f"multi-positive {smoothing}", make_positives, positives, True
    yield "siglip", lambda tile: SigLIPLoss(tile, bias_init=-3.0), pair_losses.siglip, False


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return (
        pair_losses.unit(PAIRS, D, 0),
        pair_losses.unit(PAIRS, D, 1),
        torch.tensor(9.0, dtype=torch.float64),
    )


def work(rank: int, world: int) -> dict[str, Any]:
    """All that is asked of ranks here: to start them takes longer than what they do."""
    return {
        "losses": losses(rank, world),
        "ring": ring_of_odd_blocks(rank, world),
        "unequal": unequal_shares(rank, world),
    }


@cache
def ranks(world: int) -> list[dict[str, Any]]:
    return on_ranks(world, work)


def losses(rank: int, world: int) -> dict[str, list[Tensor]]:
    """For each case and tile: loss, and the gradients of this rank's images, texts, the scale and the loss's own."""
    found = {}
    for name, make, _, grouped in cases():
        for tile in TILES:
            loss = make(tile).double()
            image, text, scale = inputs()
            image, text = (x.chunk(world)[rank].clone().requires_grad_() for x in (image, text))
            scale.requires_grad_()
            value = loss(image, text, scale, *([GROUPS.chunk(world)[rank]] if grouped else []))
            wanted = [image, text, scale, *loss.parameters()]
            found[f"{name}, tile {tile}"] = [value.detach(), *torch.autograd.grad(value, wanted)]
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_value_and_gradients_equal_the_formula(world: int) -> None:
    each_rank = [rank["losses"] for rank in ranks(world)] if world > 1 else [losses(0, 1)]
    for name, _, formula, grouped in cases():
        given = [*inputs(), *([GROUPS] if grouped else [])]
        if name == "siglip":
            given.append(torch.tensor(-3.0, dtype=torch.float64))
        expected = pair_losses.gradients(formula, *given)
        for tile in TILES:
            found = [rank[f"{name}, tile {tile}"] for rank in each_rank]
            # Features: what a rank's tower gets, averaged over ranks as its parameters' gradients are.
            features = [torch.cat([each[n] for each in found]) / world for n in (1, 2)]
            scalars = [torch.stack([each[n] for each in found]).mean() for n in (0, *range(3, len(expected)))]
            for n, ours in zip(
                (0, 1, 2, *range(3, len(expected))), (scalars[0], *features, *scalars[1:]), strict=True
            ):
                assert pair_losses.difference(ours, expected[n]) < 1e-12, (name, tile, n)


def ring_of_odd_blocks(rank: int, world: int) -> list[Any]:
    """Blocks of one and of three rows, of two dtypes; visits that say something and visits that don't."""
    found: list[Any] = []
    for n in (1, 3):
        rows = torch.arange(n) + 10.0 * rank
        seen: list[float] = []

        def visit(rows: Tensor, numbers: Tensor, seen: list[float] = seen) -> Tensor:
            assert (rows.long() == numbers).all()
            seen += rows.tolist()
            return (rows + 100 * rank)[:, None]

        def silent(rows: Tensor, seen: list[float] = seen) -> None:
            seen += rows.tolist()

        said = distributed.ring([rows, rows.long()], visit)
        assert distributed.ring([rows], silent) is None
        found += [said, seen]
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_ring_shows_every_row_to_every_rank_and_brings_home_what_is_said(world: int) -> None:
    for rank, found in enumerate(ranks(world)):
        one, saw_one, three, saw_three = found["ring"]
        for n, said, saw in ((1, one, saw_one), (3, three, saw_three)):
            own = torch.arange(n) + 10.0 * rank
            assert said.flatten().tolist() == (world * own + 100 * sum(range(world))).tolist()
            every = sorted(10.0 * other + row for other in range(world) for row in range(n))
            assert sorted(saw[: len(saw) // 2]) == sorted(saw[len(saw) // 2 :]) == every


def unequal_shares(rank: int, world: int) -> str:
    features = pair_losses.unit(30 + rank, D, 0)
    try:
        ContrastiveLoss()(features, features, torch.tensor(1.0))
    except ValueError as error:
        return str(error)
    return ""


def test_unequal_shares_are_an_error_on_every_rank() -> None:
    assert all("(30, 7), (31, 7)" in rank["unequal"] for rank in ranks(2))
