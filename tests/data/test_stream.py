"""The stream: the same batches for any ranks × workers and from any step; every fault counted."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from diptych.batch import Batch
from diptych.data.image import TrainImage
from diptych.data.index import Index, open_index
from diptych.data.order import Order
from diptych.data.pairs import Pairs
from diptych.data.shards import read_whole
from diptych.data.steps import Steps
from diptych.data.stream import Place, Stream
from diptych.errors import UserError
from samples import caption, write_shards


def letters(texts: list[str]) -> torch.Tensor:
    """A tokenizer small enough to read: code points, 24 of them."""
    return torch.tensor([[ord(c) for c in text[:24].ljust(24)] for text in texts])


FIRST = Place()


def steps(
    index: Path, place: Place = FIRST, workers: int = 0, start: int = 0, stop: int = 12, **changes: object
) -> Steps:
    options = {"seed": 5, "batch_size": 16, "streams": 4, "memory": 0, "max_bad": 0.0} | changes
    max_bad = options.pop("max_bad")
    stream = Stream(
        open_index(str(index)), Pairs(TrainImage(24), letters), start=start, stop=stop, place=place, **options
    )
    return Steps(stream, workers, max_bad)


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        a.keys == b.keys
        and torch.equal(a.images, b.images)
        and torch.equal(a.tokens, b.tokens)
        and torch.equal(a.seeds, b.seeds)
        and a.step == b.step
        for a, b in zip(left, right, strict=True)
    )


def joined(ranks: list[list[Batch]]) -> list[Batch]:
    return [
        Batch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.seeds for part in parts]),
            [key for part in parts for key in part.keys],
            parts[0].step,
        )
        for parts in zip(*ranks, strict=True)
    ]


@pytest.fixture
def reference(shards: Path) -> list[Batch]:
    return list(steps(shards))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (2, 1), (4, 0), (1, 4)])
def test_any_layout_gives_the_same_batches(shards: Path, reference: list[Batch], ranks: int, workers: int) -> None:
    got = joined([list(steps(shards, Place(rank, ranks), workers)) for rank in range(ranks)])
    assert same(got, reference)


def test_the_stream_is_the_order(shards: Path, reference: list[Batch]) -> None:
    index = open_index(str(shards))
    samples = [list(read_whole(Index((shard,)))) for shard in index.shards]
    for step in range(10):
        epoch, within = divmod(step, 5)
        order = Order(index, seed=5, epoch=epoch, batch_size=16, streams=4)
        assert order.steps == 5
        keys = []
        for shard, number in order.batch(within):
            sample = samples[shard][number]
            keys.append(f"{index.names[shard]}/{sample['__key__']}")
        assert reference[step].keys == keys


def test_images_and_captions_belong_together(reference: list[Batch]) -> None:
    for batch in reference:
        for key, tokens in zip(batch.keys, batch.tokens, strict=True):
            expected = caption(int(key.rsplit("/", 1)[1]))
            assert torch.equal(tokens, letters([expected])[0])


@pytest.mark.parametrize(("start", "memory"), list(product([1, 4, 5, 7, 11], [0, 10**9])))
def test_going_on_from_a_step_is_exact(shards: Path, reference: list[Batch], start: int, memory: int) -> None:
    assert same(list(steps(shards, start=start, memory=memory)), reference[start:])


def test_crops_change_from_epoch_to_epoch(reference: list[Batch]) -> None:
    first = dict(zip(reference[0].keys, reference[0].seeds.tolist(), strict=True))
    later = {k: s for b in reference[5:10] for k, s in zip(b.keys, b.seeds.tolist(), strict=True)}
    assert all(first[key] != later[key] for key in first)


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


def misnamed(number: int, sample: dict) -> dict:
    return {"__key__": sample["__key__"], "picture": sample["png"]}


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


def test_webdataset_reads_the_same_samples(shards: Path) -> None:
    import webdataset as wds

    index = open_index(str(shards))
    ours = list(read_whole(index))
    theirs = list(wds.WebDataset([shard.path for shard in index.shards], shardshuffle=False))
    assert [(s["__key__"], s["png"], s["txt"]) for s in ours] == [(s["__key__"], s["png"], s["txt"]) for s in theirs]
