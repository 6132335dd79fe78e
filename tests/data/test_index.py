"""Indices are read, shards are counted, and damage is named before training."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest

from diptych.data.index import open_index, scan
from diptych.errors import UserError
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
