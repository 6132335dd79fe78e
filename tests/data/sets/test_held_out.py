"""Pairs that are held out: by their keys alone, never in a training batch, on any layout, and after a resume."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.pixels.image import TrainImage
from diptych.data.sets.held_out import auto, check, hashed, held_out, hold_out
from diptych.data.stream.index import Index, open_index
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.shards import keys
from diptych.data.stream.worker import Place, Stream
from diptych.data.text.tokenizer import Tokenizer
from samples import caption, picture, write_shards


@pytest.fixture(scope="module")
def index_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("pairs"), [40, 8, 32, 1, 39])


def held(index: Index, wanted: int | str) -> tuple[Index, set[str]]:
    chosen, _ = hold_out(index, wanted, Files())
    every = [keys(index, shard, Files()) for shard in range(len(index.shards))]
    return chosen, {str(every[shard][n]) for shard, numbers in chosen.held.items() for n in numbers}


def batches(index: Index, ranks: int, workers: int, start: int, stop: int) -> dict[int, list[str]]:
    """Step -> keys of the global batch, stream by stream, over all ranks × workers."""
    found: dict[int, list[str]] = {}
    pairs = Pairs(TrainImage(8), Tokenizer(8))
    for rank in range(ranks):
        stream = Stream(
            Order(index, seed=3, epoch=0, batch_size=16, streams=4, block=7),
            pairs,
            start=start,
            stop=stop,
            place=Place(rank, ranks),
            memory=0,
        )
        for worker in range(workers):
            for step, part in enumerate(stream.parts(worker, workers), start):
                assert part.failure is None
                found.setdefault(step, []).extend(part.keys)
    return found


def test_no_held_out_pair_is_ever_in_a_batch(index_file: Path) -> None:
    """On three layouts and after a resume: one sequence of batches, of the other pairs alone, and of all of them."""
    index, chosen = held(open_index(str(index_file)), 9)
    steps = Order(index, seed=3, epoch=0, batch_size=16, streams=4, block=7).steps
    assert len(chosen) == 9 and steps == 6
    whole = batches(index, 1, 1, 0, 4 * steps)
    drawn = {key.rpartition("/")[2] for batch in whole.values() for key in batch}
    assert drawn == {f"{n:06d}" for n in range(120)} - chosen
    assert batches(index, 2, 2, 0, 4 * steps) == whole and batches(index, 4, 1, 0, 4 * steps) == whole
    assert batches(index, 2, 1, 5, 9) == {step: whole[step] for step in range(5, 9)}


def test_without_any_the_order_is_what_it_was(index_file: Path) -> None:
    index = open_index(str(index_file))
    same, told = hold_out(index, 0, Files())
    assert same is index and same.held == {} and "no pair of 120" in told
    assert [index.place(0, n) for n in range(40)] == list(range(40)) and index.span(0, 3, 9) == (3, 9, frozenset())


def test_places_skip_what_is_held_out() -> None:
    index = Index((), held={0: np.array([0, 1, 4, 9])})
    taken = [n for n in range(12) if n not in (0, 1, 4, 9)]
    assert [index.place(0, n) for n in range(len(taken))] == taken
    for first in range(len(taken)):
        for last in range(first + 1, len(taken) + 1):
            begin, end, skipped = index.span(0, first, last)
            assert [n for n in range(begin, end) if n not in skipped] == taken[first:last]


def test_the_key_chooses_whatever_the_layout(tmp_path: Path, index_file: Path) -> None:
    """The same pairs in other shards, in the order of another name, one of them compressed: the same are held out."""
    _, chosen = held(open_index(str(index_file)), 10)
    assert chosen == set(sorted((f"{n:06d}" for n in range(120)), key=hashed)[:10])
    for name, part in (("b.tar", range(70, 120)), ("a.tar", range(70))):
        with wds.TarWriter(str(tmp_path / name)) as writer:
            for n in reversed(part):
                writer.write({"__key__": f"{n:06d}", "png": picture(n), "txt": caption(n).encode()})
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress((tmp_path / "b.tar").read_bytes()))
    _, again = held(open_index([str(tmp_path / "a.tar"), str(tmp_path / "b.tar.gz")]), 10)
    assert again == chosen


def test_keys_are_webdatasets(tmp_path: Path) -> None:
    """Long names, folders and several files a sample; the fast way and the slow one give what the reader gives."""
    names = ["a/b", "0" * 150, "x.y", "ä", "folder/" + "n" * 120]
    with wds.TarWriter(str(tmp_path / "odd.tar")) as writer:
        for n, name in enumerate(names):
            writer.write({"__key__": name.partition(".")[0], "png": picture(n), "txt": caption(n).encode()})
    index = open_index(str(tmp_path / "odd.tar"))
    found = keys(index, 0, Files())
    assert found == [sample["__key__"] for sample in wds.WebDataset(str(tmp_path / "odd.tar"), shardshuffle=False)]
    assert found == [name.partition(".")[0] for name in names]


def test_pairs_of_one_key_are_on_one_side(tmp_path: Path) -> None:
    for shard in range(3):
        with wds.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            for n in range(20):
                writer.write({"__key__": f"{n:03d}", "png": picture(n), "txt": b"a square"})
    index = open_index([str(tmp_path / f"{shard}.tar") for shard in range(3)])
    chosen, names = held(index, 7)
    assert len(names) == 2 and all(len(numbers) == 2 for numbers in chosen.held.values()) and len(chosen.held) == 3
    with pytest.raises(UserError, match=r"data\.validation=2 is fewer than the pairs that share one key"):
        hold_out(index, 2, Files())


@pytest.mark.parametrize(("total", "number"), [(39, 0), (40, 8), (58, 8), (500, 10), (90_000, 1000)])
def test_auto_holds_out_eight_or_more_and_at_most_a_fifth(total: int, number: int) -> None:
    assert auto(total) == number


def test_what_auto_holds_out(index_file: Path) -> None:
    index = open_index(str(index_file))
    assert sum(map(len, hold_out(index, "auto", Files())[0].held.values())) == 8  # 2 % of 120 would be 2
    remote = open_index(str(index_file))
    remote = Index(tuple(type(s)(f"http://host/{s.path}", s.samples, s.bytes) for s in remote.shards))
    assert "remote" in hold_out(remote, "auto", Files())[1]
    with pytest.raises(UserError, match=r"data\.validation=5 .* remote shards"):
        hold_out(remote, 5, Files())
    many = Index((type(index.shards[0])("x.tar", 1_000_000, 1),))
    assert "no pair of 1,000,000" in hold_out(many, "auto", Files())[1]


@pytest.mark.parametrize("wanted", [-1, "all", 0.02, True, None])
def test_what_is_no_number_of_pairs_is_refused(wanted: object) -> None:
    with pytest.raises(UserError, match="must be a whole number of pairs to hold out, 0 for none, or auto"):
        check(wanted)


def test_all_of_them_cannot_be_held_out(index_file: Path) -> None:
    with pytest.raises(UserError, match="leaves none of the 120 pairs to train on"):
        hold_out(open_index(str(index_file)), 120, Files())


def test_one_that_gives_no_pair_is_counted(tmp_path: Path) -> None:
    def spoil(n: int, sample: dict) -> dict:
        sample["json"] = json.dumps({"kind": n % 2}).encode()
        return {k: v for k, v in sample.items() if k != "txt"} if n == 3 else sample

    index, _ = hold_out(open_index(str(write_shards(tmp_path, [30], spoil))), 29, Files())
    found = held_out(index, Files(), None, "kind")
    assert found is not None and found.told["held_out"] == 29
    assert sum(found.told["unread"].values()) + len(found.evalset) == 29
    assert found.evalset.role == "validation" and found.evalset.classnames == []
    order = [hashed(key.rpartition("/")[2]) for key, *_ in found.evalset.items]
    assert (
        order == sorted(order) and len(set(found.groups_of([key for key, *_ in found.evalset.items]).tolist())) == 2
    )
