"""The order is pure, complete and the same however it is read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.base import seeding
from diptych.base.errors import UserError
from diptych.data.stream.index import Index, Shard, open_index
from diptych.data.stream.order import EDITION, Order, left_out_of_all
from samples import write_shards


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


def test_an_order_is_made_of_an_index_or_its_path_and_says_where_it_ends(tmp_path: Path) -> None:
    file = write_shards(tmp_path / "set", [10, 6])
    orders = [
        Order(index, seed=0, epoch=0, batch_size=4, streams=2) for index in (str(file), file, open_index(str(file)))
    ]
    assert [order.batch(3) for order in orders] == [orders[2].batch(3)] * 3
    for step in (4, 99, -1):
        with pytest.raises(IndexError, match=f"step {step} is not in this epoch, whose 4 steps count from 0"):
            orders[0].batch(step)
    for wrong in (7, "none.json"):
        with pytest.raises(UserError, match=rf"index={wrong} "):
            Order(wrong, seed=0, epoch=0, batch_size=4, streams=2)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(world=worlds(), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_sample_once_less_the_stated_remainder(
    world: tuple[Index, int, int, int], seed: int, epoch: int
) -> None:
    index, streams, batch, block = world
    order = Order(index, seed=seed, epoch=epoch, batch_size=batch, streams=streams, block=block)
    seen = Counter(sample for step in range(order.steps) for sample in order.batch(step))
    assert max(seen.values()) == 1
    assert len(seen) == order.steps * batch == index.samples - order.remainder
    assert order.remainder < batch + streams
    assert all(0 <= number < index.shards[shard].samples for shard, number in seen)
    assert order.left_out() == {
        (shard, number) for shard, of in enumerate(index.shards) for number in range(of.samples)
    } - set(seen)


def orders(counts: list[int], epochs: int, batch: int, streams: int) -> list[Order]:
    index = index_of(counts)
    return [Order(index, seed=1, epoch=epoch, batch_size=batch, streams=streams) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("counts", "batch", "streams"),
    [
        ([222] * 4, 256, 8),  # each stream is half a shard, whatever the shards' permutation: the embedded pairs
        ([10], 4, 2),
        ([7, 5, 3, 1], 6, 3),
        ([100, 20, 20], 32, 4),
    ],
)
def test_every_sample_is_as_likely_as_any_other_to_be_left_out(counts: list[int], batch: int, streams: int) -> None:
    """Within what chance allows over 400 epochs; by the turn, a sample is as likely at any place as at another."""
    samples = sum(counts)
    epochs = orders(counts, 400, batch, streams)
    left = Counter(sample for order in epochs for sample in order.left_out())
    chance = epochs[0].remainder / samples
    allowed = 5 * (400 * chance * (1 - chance)) ** 0.5  # five standard deviations of a binomial draw
    for shard, count in enumerate(counts):
        for number in range(count):
            assert abs(left[shard, number] - 400 * chance) < allowed, (shard, number)


def test_what_no_epoch_takes_is_counted() -> None:
    epochs = orders([30, 30], 12, 38, 2)  # 22 of 60 are left out
    assert left_out_of_all(epochs[:1]) == 22 == epochs[0].remainder
    assert left_out_of_all(epochs[:2]) == len(epochs[0].left_out() & epochs[1].left_out()) > 0
    assert left_out_of_all(epochs) == 0 == left_out_of_all([])


@settings(max_examples=60, deadline=None)
@given(world=worlds(), start=st.integers(0, 30), length=st.integers(0, 60))
def test_segments_are_the_line_between_two_places(
    world: tuple[Index, int, int, int], start: int, length: int
) -> None:
    index, streams, batch, _ = world
    order = Order(index, seed=3, epoch=1, batch_size=batch, streams=streams)
    for stream in range(streams):
        whole, part = (
            [(run.shard, number) for run in order.segments(stream, *places) for number in range(run.first, run.last)]
            for places in ((0, order.length), (start, start + length))
        )
        assert len(whole) == order.length
        assert part == whole[start : start + length]


@settings(max_examples=60, deadline=None)
@given(world=worlds(), epoch=st.integers(0, 3))
def test_blocks_tile_the_stream_are_bounded_and_lie_in_one_shard_or_join_small_ones(
    world: tuple[Index, int, int, int], epoch: int
) -> None:
    index, streams, batch, block = world
    order = Order(index, seed=3, epoch=epoch, batch_size=batch, streams=streams, block=block)
    for stream in range(streams):
        line = order.line(stream)
        assert line.starts[0] == 0 and line.starts[-1] == order.length
        runs = [line.runs(number) for number in range(len(line))]
        assert [run for of in runs for run in of] != []
        for number, of in enumerate(runs):
            assert sum(run.last - run.first for run in of) == line.size(number) <= block
            assert sorted(line.shuffled(number)) == list(range(line.size(number)))
            if len(of) > 1:  # each piece whole: what lies before and after it in the stream is another shard
                before = runs[number - 1][-1] if number else None
                assert before is None or before.shard != of[0].shard or before.last != of[0].first
        for place in range(order.length):
            number = line.find(place)
            assert line.starts[number] <= place < line.starts[number + 1]


def weighted(counts: list[int], weights: list[float]) -> Index:
    return Index(
        tuple(
            Shard(f"{i}.tar", count, 0, weight=weight)
            for i, (count, weight) in enumerate(zip(counts, weights, strict=True))
        )
    )


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(1, 25), min_size=2, max_size=6),
    weight=st.sampled_from([0.25, 0.5, 1.0, 1.75, 2.0, 3.3]),
    seed=st.integers(0, 99),
)
def test_weights_say_how_often_an_epoch_takes_a_sample(counts: list[int], weight: float, seed: int) -> None:
    """The first shard weighs 1, the others `weight`; one stream, batches of one, so that nothing is left over."""
    index = weighted(counts, [1.0] + [weight] * (len(counts) - 1))
    other = sum(counts[1:])
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(8):
        order = Order(index, seed=seed, epoch=epoch, batch_size=1, streams=1, block=7)
        now = Counter(sample for step in range(order.steps) for sample in order.batch(step))
        assert order.steps == counts[0] + int(other * weight + 1e-6)  # every epoch is equally long
        assert all(now[0, place] == 1 for place in range(counts[0]))
        for shard, count in enumerate(counts[1:], 1):
            assert {int(weight), int(np.ceil(weight))} >= {now[shard, place] for place in range(count)}
        seen += now
    for shard, count in enumerate(counts[1:], 1):
        for place in range(count):
            assert seen[shard, place] > 0 or weight < 1  # a share shifts; see the next test for its evenness


def test_a_share_takes_turns() -> None:
    index = weighted([40, 40, 40], [0.25, 0.25, 0.25])
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(40):
        order = Order(index, seed=0, epoch=epoch, batch_size=1, streams=1)
        seen += Counter(sample for step in range(order.steps) for sample in order.batch(step))
    assert len(seen) == 120 and min(seen.values()) >= 8 and max(seen.values()) <= 12  # 10 on average


def test_copies_of_a_shard_differ_in_their_number() -> None:
    order = Order(weighted([5], [2.5]), seed=0, epoch=0, batch_size=1, streams=1)
    runs = list(order.segments(0, 0, 100))
    sizes: Counter[int] = Counter()
    for run in runs:
        sizes[run.copy] += run.last - run.first
    assert sizes == {0: 5, 1: 5, 2: 2}


def test_shuffling_is_near_to_uniform() -> None:
    """Shards sorted by class, the worst case: how much the classes of a batch vary, against a uniform draw.

    64 shards of 500, one class each; batches of 256 from 64 streams. A uniform draw gives each class a count of
    variance n·p·(1 − p); ours may not be above it by more than a tenth, for a batch nor for 4 in a row.
    """
    order = Order(index_of([500] * 64), seed=5, epoch=0, batch_size=256, streams=64, block=100)
    shards = np.array([[shard for shard, _ in order.batch(step)] for step in range(0, 124)])
    for rows in (1, 4):
        windows = shards[: len(shards) // rows * rows].reshape(-1, 256 * rows)
        counts = np.array([np.bincount(window, minlength=64) for window in windows])
        uniform = 256 * rows / 64 * (1 - 1 / 64)
        assert counts.var(axis=0).mean() < 1.1 * uniform


def test_order_depends_on_seed_and_epoch() -> None:
    index = index_of([50, 70, 30])
    batches = {
        (seed, epoch): tuple(Order(index, seed=seed, epoch=epoch, batch_size=12, streams=4).batch(0))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(batches.values())) == 4


def test_order_is_pinned() -> None:
    """Golden: a release that changes the order has to raise EDITION with it, so that no run goes on with another."""
    assert EDITION == 2
    order = Order(index_of([5, 3, 8]), seed=7, epoch=2, batch_size=4, streams=2, block=4)
    assert [order.batch(step) for step in (0, 3)] == GOLDEN


GOLDEN = [
    [(1, 2), (2, 1), (2, 7), (0, 0)],
    [(2, 4), (2, 6), (1, 1), (1, 0)],
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
