"""Flags of one rank are known to all at the same step, whichever rank is slow."""

from __future__ import annotations

from datetime import timedelta

from gloo import on_ranks

from diptych.training.signals import Agreement


def work(rank: int, world: int) -> list[list[int]]:
    agreement = Agreement(timedelta(minutes=1))
    heard = [agreement(15 if (rank, step) == (1, 2) else 0, step if rank == 0 else 0) for step in range(5)]
    return [*heard, agreement.arrived() or [], agreement.arrived() or []]


def test_all_ranks_hear_the_same_one_step_later() -> None:
    expected = [[0, 0], [0, 0], [0, 1], [15, 2], [0, 3], [0, 4], []]
    assert on_ranks(3, work) == [expected] * 3


def test_one_process_hears_itself_at_once() -> None:
    agreement = Agreement(timedelta(minutes=1))
    assert agreement(2, 0) == [2, 0] and agreement.arrived() is None
