"""One stream: bounded memory, an even pace of reading, and rules for what stands in for a bad sample."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.index import Index, Shard
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import BadSample, Pair
from diptych.data.stream.shards import CUT, Damaged, Sample, Shelf
from diptych.data.stream.walk import Part, Walk


class Numbers(Shelf):
    """Shards whose samples are their own numbers; `damaged` and `bad` ones are not. Counts what is read."""

    def __init__(self, counts: list[int], damaged: set[tuple[int, int]], bad: set[tuple[int, int]]) -> None:
        super().__init__(Index(tuple(Shard(f"{i}.tar", count, 0) for i, count in enumerate(counts))), Files(), -1)
        self.damaged, self.bad = damaged, bad
        self.reads: list[tuple[int, int]] = []

    def samples(self, number: int, first: int, last: int) -> Iterator[Sample | Damaged]:
        for place in range(first, last):
            self.reads.append((number, place))
            yield CUT if (number, place) in self.damaged else {"__key__": f"{place}", "at": (number, place)}

    def pair(self, sample: Sample, seed: int) -> Pair:
        if sample["at"] in self.bad:
            raise BadSample("bad")
        return Pair(torch.tensor(sample["at"]), torch.tensor([seed]))


def walk(shelf: Numbers, start: int = 0, stop: int = 10**6, stream: int = 0, **layout: int) -> Walk:
    options = {"seed": 1, "batch_size": 4, "streams": 2, "block": 10} | layout
    orders = lru_cache(lambda epoch: Order(shelf.index, epoch=epoch, **options))
    return Walk(orders, stream, start, stop, shelf, shelf.pair)


def taken(walk: Walk, steps: int) -> list[tuple[int, int]]:
    return [tuple(pair.image.tolist()) for _ in range(steps) for pair in walk.take(Part())]


def test_reading_keeps_an_even_pace_and_about_a_block() -> None:
    shelf = Numbers([300, 40, 200], set(), set())
    run = walk(shelf, block=50, batch_size=2)
    run.take(Part())
    for _ in range(120):
        before = len(shelf.reads)
        run.take(Part())
        assert len(shelf.reads) - before <= 3  # never a whole block at once
        assert len(run.block._items) + len(run.next._items) <= 50 + 3  # type: ignore[union-attr]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    block=st.integers(1, 25),
    start=st.integers(0, 12),
    faults=st.integers(0, 2**32),
)
def test_going_on_anywhere_gives_the_same_pairs_whatever_is_bad(
    counts: list[int], block: int, start: int, faults: int
) -> None:
    counts[0] += 8
    places = [(shard, place) for shard, count in enumerate(counts) for place in range(count)]
    spoiled = [place for i, place in enumerate(places) if (faults >> (i % 32)) & 5 == 5]
    shelf = Numbers(counts, set(spoiled[::2]), set(spoiled[1::2]))
    try:
        whole = taken(walk(shelf, block=block), 20)
    except UserError as error:
        assert "No sample of a whole block" in str(error) or "Nothing can be read" in str(error)
        return
    assert len(whole) == 40 and taken(walk(shelf, start, block=block), 20 - start) == whole[2 * start :]
    assert not set(whole) & set(spoiled)


def test_each_bad_sample_is_counted_at_its_own_place_alone() -> None:
    shelf = Numbers([40], {(0, 3), (0, 4), (0, 5)}, {(0, 6), (0, 7), (0, 8)})
    run = walk(shelf, streams=1, batch_size=4)
    part = Part()
    for _ in range(10):
        run.take(part)
    assert part.skipped == {("cut off in the tar", "0.tar"): 3, ("bad", "0.tar"): 3}
    assert len(part.keys) == 40


def test_nothing_is_read_beyond_the_end_of_the_training() -> None:
    shelf = Numbers([200], set(), set())
    run = walk(shelf, stop=5, streams=1, batch_size=4, block=20)
    line = run.block.line
    taken(run, 5)
    assert len(shelf.reads) == line.starts[line.find(19) + 1] <= 19 + 20  # to the end of the block of the last sample


def test_a_resume_reads_the_block_at_hand_alone() -> None:
    shelf = Numbers([1000, 1000], set(), set())
    taken(walk(shelf, start=237, block=100, streams=1, batch_size=4), 1)
    assert len(shelf.reads) <= 100 + 4 * 2


def test_an_unreadable_block_is_replaced_by_the_next() -> None:
    lost = {(shard, place) for shard in (0, 2) for place in range(20)}
    shelf = Numbers([20, 20, 20, 20], lost, set())
    run = walk(shelf, streams=1, batch_size=4, block=20)
    part = Part()
    images = [tuple(pair.image.tolist()) for _ in range(20) for pair in run.take(part)]
    assert {shard for shard, _ in images} == {1, 3} and len(images) == 80
    assert part.skipped["cut off in the tar", "2.tar"] == 20


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.0, "No sample of a whole block of {} gives a pair; the last is .* of shard 0.tar: bad"),
        (0.5, "No sample of a whole block of {} gives a pair"),
    ],
)
def test_a_block_that_gives_no_pair_at_all_stops(share: float, message: str) -> None:
    """`share` of its samples can't be read, the others are bad."""
    shelf = Numbers([40], set(), set())
    run = walk(shelf, streams=1, batch_size=4)
    block = [(0, number) for part in run.block.line.runs(0) for number in range(part.first, part.last)]
    shelf.damaged, shelf.bad = set(block[: int(share * len(block))]), set(block[int(share * len(block)) :])
    with pytest.raises(UserError, match=message.format(len(block))):
        taken(run, 1)


def test_a_stream_that_can_not_be_read_at_all_stops() -> None:
    shelf = Numbers([40], {(0, place) for place in range(40)}, set())
    with pytest.raises(UserError, match=r"Nothing can be read of a whole stream, from shard 0\.tar on"):
        taken(walk(shelf, streams=1, batch_size=4), 10)
