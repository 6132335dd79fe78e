"""Samples that give no pair: replaced by rule, counted by reason and shard, and past a limit the run stops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from streams import joined, letters, same, steps

from diptych.base.errors import UserError
from diptych.data.pixels.image import TrainImage
from diptych.data.stream.index import open_index
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream
from samples import write_shards


def spoil(number: int, sample: dict) -> dict:
    """One of each fault."""
    if number == 3:
        sample["png"] = b"<html>404</html>"
    if number == 20:
        sample["txt"] = b"  \n"
    if number == 40:
        del sample["txt"]
    if number == 50:
        del sample["png"]
    if number == 60:
        sample["png"] = b""
    return sample


def test_every_bad_sample_is_replaced_and_counted(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "bad", [32, 8, 24, 16], spoil)
    run = steps(index, max_bad=0.5, stop=5)
    batches = list(run)
    keys = {key.rsplit("/", 1)[1] for batch in batches for key in batch.keys}
    assert not keys & {"000003", "000020", "000040", "000050", "000060"}
    assert all(len(batch) == 16 for batch in batches)
    assert run.read == 80
    first, third = "train-000000.tar", "train-000002.tar"
    assert run.skipped == {
        "not a readable image (.png)": {first: 1},
        "empty caption": {first: 1},
        "no caption: neither .txt nor .json among .png": {third: 1},
        "no image among .txt": {third: 1},
        "image of zero bytes (.png)": {third: 1},
    }
    for ranks, workers in ((2, 0), (1, 2)):
        other = joined(
            [list(steps(index, Place(rank, ranks), workers, max_bad=0.5, stop=5)) for rank in range(ranks)]
        )
        assert same(other, batches)


def test_too_many_bad_samples_stop_the_run_and_say_where(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "bad", [32, 8, 24, 16], spoil)
    with pytest.raises(UserError, match=r"bad samples.*data\.max_bad=0\.01.*in shard train-0"):
        list(steps(index, max_bad=0.01, stop=5))


@pytest.mark.parametrize("workers", [0, 2])
def test_wrong_names_stop_at_once_and_list_what_is_there(tmp_path: Path, workers: int) -> None:
    index = write_shards(tmp_path / "odd", [32, 32], lambda n, s: {"__key__": s["__key__"], "picture": s["png"]})
    with pytest.raises(UserError, match=r"No sample of a whole block.*\.picture"):
        next(iter(steps(index, workers=workers)))


def test_a_shard_shorter_than_its_index_is_counted_and_past_the_limit_stops(shards: Path) -> None:
    shards.write_text(shards.read_text().replace('"samples": 32', '"samples": 35'))
    with pytest.raises(UserError, match=r"\d bad samples .*cut off in the tar, in shard train-000000\.tar"):
        list(steps(shards, stop=5))
    run = steps(shards, stop=5, max_bad=0.1)
    assert all(len(batch) == 16 for batch in run)
    # Three that aren't there, and the last before the end: without offsets nobody knows whether it is whole.
    assert run.skipped == {"cut off in the tar": {"train-000000.tar": 4}}


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 0), (1, 2)])
def test_a_damaged_shard_costs_its_damaged_samples(tmp_path: Path, ranks: int, workers: int) -> None:
    """The third shard is cut in half after it was indexed: the run goes on, each lost sample is counted once."""
    path = write_shards(tmp_path / "cut", [32, 8, 24, 16])
    index = open_index(str(path.parent / "train-{000000..000003}.tar"))
    tar = path.parent / "train-000002.tar"
    offsets = index.found[str(tar)]
    tar.write_bytes(tar.read_bytes()[: int(offsets[13]) - 100])
    order = Order(index, seed=5, epoch=0, batch_size=16, streams=4)
    batches, skipped = [], Counter()
    for rank in range(ranks):
        place = Place(rank, ranks)
        stream = Stream(order, Pairs(TrainImage(24), letters), start=0, stop=10, place=place, memory=0)
        run = Steps(stream, workers, 0.5)
        batches.append(list(run))
        skipped.update(run.skipped.get("cut off in the tar", {}))
    assert skipped == {"train-000002.tar": 2 * 12}  # twelve an epoch
    lost = {f"train-000002.tar/{40 + n:06d}" for n in range(12, 24)}
    keys = [key for steps_of in batches for batch in steps_of for key in batch.keys]
    assert len(keys) == 160 and not lost & set(keys)
    assert set(keys) == ALL - lost


ALL = {
    f"train-{shard:06d}.tar/{number:06d}"
    for shard, (first, last) in enumerate([(0, 32), (32, 40), (40, 64), (64, 80)])
    for number in range(first, last)
}
