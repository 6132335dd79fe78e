"""Indices are read, shards are counted, and damage is named before training."""

from __future__ import annotations

import gzip
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.data.stream.index import open_index, scan
from samples import write_shards


def test_index_and_scan_agree(shards: Path) -> None:
    indexed = open_index(str(shards))
    scanned = open_index(str(shards.parent / "train-{000000..000003}.tar"))
    assert [s.samples for s in indexed.shards] == [32, 8, 24, 16]
    assert indexed == scanned
    assert open_index([str(shards.parent / "train-000000.tar"), str(shards)]).samples == 32 + 80


def test_scan_counts_as_webdataset_groups(tmp_path: Path) -> None:
    """Folders, several extensions, files without one and webdataset's own meta files."""
    import webdataset as wds

    path = tmp_path / "mixed.tar"
    (tmp_path / "x").write_text("x")
    with tarfile.open(path, "w") as tar:
        for name in ("__meta__", "a/1.jpg", "a/1.seg.png", "a/1.txt", "README", "b/1.jpg", "b/2.jpg"):
            tar.add(tmp_path / "x", name)
    theirs = [sample["__key__"] for sample in wds.WebDataset(str(path), shardshuffle=False)]
    assert theirs == ["a/1", "b/1", "b/2"]
    assert scan(str(path))[0].samples == 3


@pytest.mark.parametrize("where", [0.3, 0.5, 0.9])
def test_a_cut_tar_is_refused(shards: Path, where: float) -> None:
    tar = shards.parent / "train-000002.tar"
    tar.write_bytes(tar.read_bytes()[: int(tar.stat().st_size * where)])
    for pattern in (str(shards), str(tar)):
        with pytest.raises(UserError, match=r"train-000002\.tar.*(cut|not a whole tar)"):
            open_index(pattern)


@pytest.mark.parametrize("where", [0.3, 0.9, 1.0])
def test_a_compressed_tar_is_read_and_its_cut_named(shards: Path, where: float) -> None:
    packed = gzip.compress((shards.parent / "train-000002.tar").read_bytes())
    tar = shards.parent / "packed.tar"
    tar.write_bytes(packed[: int(len(packed) * where)])
    if where == 1.0:
        assert scan(str(tar))[0].samples == 24
        return
    with pytest.raises(UserError, match=r"packed\.tar is cut or damaged after \d+ samples"):
        scan(str(tar))


def test_missing_and_foreign_files_are_refused(shards: Path, tmp_path: Path) -> None:
    (shards.parent / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar.*missing"):
        open_index(str(shards))
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        open_index("nowhere.json")
    with pytest.raises(UserError, match=r"gone\.tar is missing"):
        open_index("gone.tar")
    (tmp_path / "no.tar").write_text("not a tar at all" * 100)
    with pytest.raises(UserError, match="not a whole tar"):
        open_index(str(tmp_path / "no.tar"))
    (tmp_path / "odd.json").write_text('{"shards": [{"samples": 3}]}')
    with pytest.raises(UserError, match="not an index"):
        open_index(str(tmp_path / "odd.json"))
    (tmp_path / "none.json").write_text('{"shards": []}')
    with pytest.raises(UserError, match="names no sample"):
        open_index(str(tmp_path / "none.json"))


@pytest.mark.parametrize("path", ["/etc/passwd", "../train-000000.tar"])
def test_an_index_names_nothing_outside_its_folder(tmp_path: Path, path: str) -> None:
    index = write_shards(tmp_path / "shards", [4])
    entries = json.loads(index.read_text())
    entries["shards"][0]["path"] = path
    index.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="outside its own folder"):
        open_index(str(index))


def test_pipes_never_run(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    with pytest.raises(UserError, match="would run a program"):
        open_index(f"pipe:touch {sentinel}")
    with pytest.raises(UserError, match="remote"):
        open_index("s3://bucket/x.tar")
    assert not sentinel.exists()


SOUND = {"path": "a.tar", "samples": 4, "bytes": 20480}


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ({"shards": [SOUND | {"samples": 10**12}]}, "1000000000000 samples and 20480 bytes, more than any tar"),
        ({"shards": [SOUND | {"samples": 10**400}]}, "samples and 20480 bytes, more than any tar"),
        ({"shards": [SOUND | {"samples": 10**12, "bytes": 10**16}]}, "more than any tar can hold"),
        ({"shards": [SOUND | {"bytes": 10**30}]}, "more than any tar can hold"),
        ({"shards": [SOUND | {"samples": 70000}]}, "70000 samples in 20480 bytes, which no tar can hold"),
        ({"shards": [SOUND | {"samples": -1}]}, "a negative size"),
        ({"shards": [SOUND | {"bytes": -1}]}, "a negative size"),
        ({"shards": [SOUND | {"samples": 4.0}]}, "entry 0 of shards has samples 4.0, which is not a whole number"),
        ({"shards": [SOUND | {"samples": float("nan")}]}, "samples nan, which is not a whole"),
        ({"shards": [SOUND | {"samples": "4"}]}, "samples '4', which is not a whole number"),
        ({"shards": [SOUND | {"samples": True}]}, "samples True, which is not a whole number"),
        ({"shards": [SOUND | {"bytes": None}]}, "bytes None, which is not a whole number"),
        ({"shards": [{"path": "a.tar", "samples": 4}]}, "entry 0 of shards has no bytes"),
        ({"shards": [SOUND | {"path": 3}]}, "has path 3, which is not a text"),
        ({"shards": [SOUND | {"path": ""}]}, "has an empty path"),
        ({"shards": [SOUND | {"path": None}]}, "has path None, which is not a text"),
        ({"shards": [SOUND | {"offsets": 1}]}, "offsets 1, which is not true or false"),
        ({"shards": [SOUND | {"sha256": 1}]}, "sha256 1, which is not a text"),
        ({"shards": [SOUND, SOUND | {"path": "./a.tar"}]}, r"names the shard \./a\.tar twice"),
        ({"shards": [SOUND, "a.tar"]}, "entry 1 of shards is 'a.tar'"),
        ({"shards": [SOUND, None]}, "entry 1 of shards is None"),
        ({"shards": {"a": SOUND}}, "shards is not a list"),
        ({"shards": None}, "shards is not a list"),
        ({}, "not an index of shards .*shards"),
        ([], "not an index of shards"),
        (None, "not an index of shards"),
        ({"version": 2, "shards": [SOUND]}, "an index of version 2, but only version 1 is supported"),
        ({"version": "1", "shards": [SOUND]}, "an index of version '1'"),
        (
            {"shards": [SOUND | {"path": "\x1b[2J/../a.tar"}]},
            r"names the shard \\x1b\[2J/\.\./a\.tar outside its own",
        ),
        ({"shards": [SOUND | {"path": "\x1b[2J.tar"}]}, "control character"),
    ],
)
def test_an_index_that_says_what_can_not_be_is_one_sentence(tmp_path: Path, index: object, why: str) -> None:
    """And nothing is held for what it says."""
    write_shards(tmp_path, [4], index=False)
    (tmp_path / "train-000000.tar").rename(tmp_path / "a.tar")
    (tmp_path / "index.json").write_text(json.dumps(index))
    tracemalloc.start()
    with pytest.raises(UserError, match=why) as error:
        open_index(str(tmp_path / "index.json"))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_cut_and_deep_indices_are_one_sentence(tmp_path: Path) -> None:
    index = write_shards(tmp_path, [4])
    for text in (index.read_text()[:-10], '{"shards": ' + "[" * 100_000, "", '{"shards": [1' + "0" * 5000 + "]}"):
        index.write_text(text)
        with pytest.raises(UserError, match="is not an index of shards") as error:
            open_index(str(index))
        assert len(str(error.value)) < 400
