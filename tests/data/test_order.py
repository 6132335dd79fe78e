"""The order is pure, complete and the same however it is read."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data import seeding
from diptych.data.index import Index, Shard
from diptych.data.order import Order
from diptych.errors import UserError


def index_of(counts: list[int]) -> Index:
    return Index(tuple(Shard(f"{i}.tar", count, 0) for i, count in enumerate(counts)))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Index, int, int, int]:
    """An index, streams, batch and block that fit together."""
    streams = draw(st.integers(1, 6))
    batch = streams * draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=8))
    counts[0] += batch
    return index_of(counts), streams, batch, draw(st.integers(1, 50))


@settings(max_examples=150, deadline=None)
@given(world=worlds(), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_sample_once_less_the_stated_remainder(
    world: tuple[Index, int, int, int], seed: int, epoch: int
) -> None:
    index, streams, batch, block = world
    try:
        order = Order(index, seed=seed, epoch=epoch, batch_size=batch, streams=streams, block=block)
    except UserError:
        assert index.samples // streams < batch // streams  # no stream is long enough for one step
        return
    seen = Counter(sample for step in range(order.steps) for sample in order.batch(step))
    assert max(seen.values()) == 1
    assert len(seen) == order.steps * batch == index.samples - order.remainder
    assert order.remainder < batch + streams
    assert all(0 <= number < index.shards[shard].samples for shard, number in seen)


@settings(max_examples=60, deadline=None)
@given(world=worlds(), start=st.integers(0, 30), length=st.integers(0, 60))
def test_segments_are_the_line_between_two_places(
    world: tuple[Index, int, int, int], start: int, length: int
) -> None:
    index, streams, batch, _ = world
    if index.samples // streams < batch // streams:
        return
    order = Order(index, seed=3, epoch=1, batch_size=batch, streams=streams)
    for stream in range(streams):
        whole, part = (
            [(run.shard, number) for run in order.segments(stream, *places) for number in range(run.first, run.last)]
            for places in ((0, order.length), (start, start + length))
        )
        assert len(whole) == order.length
        assert part == whole[start : start + length]


def test_order_depends_on_seed_and_epoch() -> None:
    index = index_of([50, 70, 30])
    batches = {
        (seed, epoch): tuple(Order(index, seed=seed, epoch=epoch, batch_size=12, streams=4).batch(0))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(batches.values())) == 4


def test_order_is_pinned() -> None:
    """Golden: a release that changes the order of a running experiment has to say so."""
    order = Order(index_of([5, 3, 8]), seed=7, epoch=2, batch_size=4, streams=2, block=4)
    assert [order.batch(step) for step in (0, 3)] == GOLDEN


GOLDEN = [
    [(0, 0), (0, 1), (2, 1), (2, 0)],
    [(1, 0), (1, 1), (2, 6), (2, 5)],
]


@pytest.mark.parametrize(("batch", "streams"), [(10, 4), (400, 4), (8, 0)])
def test_impossible_layouts_are_refused(batch: int, streams: int) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size"):
        Order(index_of([30, 30]), seed=0, epoch=0, batch_size=batch, streams=streams)


def test_splitmix_equals_its_published_vector() -> None:
    """Seed 1234567's first outputs, from the reference implementation of SplitMix64."""
    state, outputs = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert int(seeding.mix(1234567)) == outputs[0]


@given(parts=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_one_number_equals_an_array_of_one(parts: list[int]) -> None:
    assert seeding.mix_one(*parts) == int(seeding.mix(*parts))
    assert seeding.uniform_one(*parts) == float(seeding.uniform(*parts))


def test_uniform_is_uniform_and_permutation_permutes() -> None:
    values = seeding.uniform(5, np.arange(200_000))
    assert values.min() >= 0 and values.max() < 1
    histogram = np.histogram(values, bins=20, range=(0, 1))[0]
    assert np.abs(histogram - 10_000).max() < 600  # six standard deviations
    assert sorted(seeding.permutation(1000, 1, 2)) == list(range(1000))
    assert not np.array_equal(seeding.permutation(1000, 1, 2), seeding.permutation(1000, 2, 1))
