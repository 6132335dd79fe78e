"""Tars that are there get an index and stay as they are: plain ones, img2dataset's, Megatron-Energon's."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import yaml
from found import found

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.index import open_index, scan
from diptych.packing import img2dataset, shards
from samples import caption, picture, write_shards


def pack(path: Path | str, out: Path | None = None, part: str | None = None, workers: int = 1, **changes: object):
    given = {"verify": False, "sha256": True, "split": None, **changes}
    shards.pack(str(path), None if out is None else str(out), part, workers, **given)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    write_shards(tmp_path / "tars", [5, 9, 2, 4], index=False)
    return tmp_path / "tars"


def checked(index: Path, counts: list[int]) -> None:
    opened = open_index(str(index))
    assert [shard.samples for shard in opened.shards] == counts
    for number, shard in enumerate(opened.shards):
        assert opened.offsets(number, Files()).tolist() == scan(shard.path)[1].tolist()


def test_an_index_beside_the_tars(tars: Path) -> None:
    before = {tar: (tar.stat().st_mtime_ns, tar.read_bytes()) for tar in found(tars, "*.tar")}
    pack(tars)
    checked(tars / "index.json", [5, 9, 2, 4])
    assert {tar: (tar.stat().st_mtime_ns, tar.read_bytes()) for tar in found(tars, "*.tar")} == before
    assert all(len(shard["sha256"]) == 64 for shard in json.loads((tars / "index.json").read_text())["shards"])


def test_an_index_elsewhere_links_the_tars(tars: Path, tmp_path: Path) -> None:
    (tars / "more").mkdir()
    (tars / "train-000003.tar").rename(tars / "more/train-000003.tar")
    tars.chmod(0o555)
    pack(str(tars / "{train-000000,more/train-000003}.tar"), tmp_path / "out", workers=2)
    checked(tmp_path / "out/index.json", [5, 4])
    assert (tmp_path / "out/more/train-000003.tar").readlink() == tars / "more/train-000003.tar"
    assert not list(tars.rglob("*.idx"))
    pack(str(tars / "{train-000000,more/train-000003}.tar"), tmp_path / "out")


def test_parts_of_an_index(tars: Path) -> None:
    for part in ("2/2", "1/2"):
        pack(tars, part=part, sha256=False)
    checked(tars / "index.json", [5, 9, 2, 4])
    assert "sha256" not in (tars / "index.json").read_text()


def test_damaged_and_missing_tars_are_named(tars: Path) -> None:
    data = bytearray((tars / "train-000001.tar").read_bytes())
    header = scan(str(tars / "train-000001.tar"))[1][3]
    data[header : header + 512] = b"\xff" * 512  # where tarfile alone stops in silence
    (tars / "train-000001.tar").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"train-000001\.tar is cut or damaged after 3 samples"):
        pack(tars)
    for path, message in (
        (tars / "train-00000{1..9}.tar", r"train-000004\.tar is missing"),
        (tars / "nothing", "nothing is missing"),
        ("s3://bucket/0.tar", "not on this machine"),
        ("pipe:touch x", "not on this machine"),
    ):
        with pytest.raises(UserError, match=message):
            pack(path)
    (tars / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no \.tar"):
        pack(tars / "empty")
    with pytest.raises(UserError, match="is only for a set that Megatron-Energon prepared"):
        pack(tars, split="val")


def energon(folder: Path, kind: str) -> None:
    """What `energon prepare` (7.4.1) leaves beside tars. kind: which file holds the offsets"""
    (folder / ".nv-meta").mkdir()
    names = sorted(tar.name for tar in folder.glob("*.tar"))
    found = {name: scan(str(folder / name)) for name in names}
    info = {"energon_version": "7.4.1", "shard_counts": {name: of.samples for name, (of, _) in found.items()}}
    (folder / ".nv-meta/.info.json").write_text(json.dumps(info))
    split = {"exclude": [names[2]], "split_parts": {"train": ["train-{000000..000002}.tar"], "val": [names[3]]}}
    (folder / ".nv-meta/split.yaml").write_text(yaml.safe_dump(split))
    with sqlite3.connect(folder / ".nv-meta/index.sqlite") as base:
        base.execute(
            "CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE,"
            " sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER)"
        )
        for number, (_, offsets) in enumerate(found.values()):
            rows = zip(offsets[:-1].tolist(), np.diff(offsets).tolist(), strict=True)
            base.executemany(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
                [(number, f"{number}/{n}", n, begin, size) for n, (begin, size) in enumerate(rows)],
            )
    base.close()
    if kind == "idx":
        (folder / ".nv-meta/index.sqlite").unlink()
        for name, (_, offsets) in found.items():
            offsets.tofile(folder / f"{name}.idx")


@pytest.mark.parametrize("kind", ["idx", "sqlite"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_energons_own_index_is_taken_without_reading_a_tar(
    tars: Path, tmp_path: Path, kind: str, elsewhere: bool
) -> None:
    energon(tars, kind)
    contents = {tar: tar.read_bytes() for tar in found(tars, "*.tar")}
    for tar, data in contents.items():
        tar.write_bytes(bytes(len(data)))  # nothing is to be found in them
    out = tmp_path / "out" if elsewhere else None
    pack(tars, out)
    for tar, data in contents.items():
        tar.write_bytes(data)
    checked((out or tars) / "index.json", [5, 9])
    assert json.loads(((out or tars) / "pack.json").read_text())["left_out"] == {
        "excluded by the split": {"count": 2, "examples": ["train-000002.tar"]},
        "of another split": {"count": 4, "examples": ["train-000003.tar"]},
    }


def test_energons_other_splits_and_no_split(tars: Path, tmp_path: Path) -> None:
    energon(tars, "idx")
    pack(tars, tmp_path / "val", split="val")
    checked(tmp_path / "val/index.json", [4])
    with pytest.raises(UserError, match=r"source\.split=test is unknown: .* has train, val"):
        pack(tars, tmp_path / "test", split="test")
    (tars / ".nv-meta/split.yaml").unlink()
    (tars / ".nv-meta/.info.json").rename(tars / ".nv-meta/.info.yaml")  # JSON is YAML
    pack(tars, tmp_path / "all")
    checked(tmp_path / "all/index.json", [5, 9, 2, 4])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (".nv-meta/.info.json", '{"shard_counts": {"../x.tar": 3}}', r"names the shard '\.\./x\.tar'"),
        (".nv-meta/.info.json", '{"shard_counts": {"/etc/passwd": 3}}', "names the shard '/etc/passwd'"),
        (".nv-meta/.info.json", '{"shard_counts": {"train-000000.tar": "3"}}', "with '3' samples"),
        (".nv-meta/.info.json", "{", r"\.info\.json is not readable"),
        (".nv-meta/.info.json", "[]", "has no shard_counts"),
        (
            ".nv-meta/split.yaml",
            "exclude: [train-000000.tar/3]\nsplit_parts: {train: []}",
            "which is no shard of the",
        ),
        (
            ".nv-meta/split.yaml",
            "!!python/object/apply:os.system ['touch x']",
            r"split\.yaml is refused: line 1 has the tag",
        ),
        ("train-000000.tar.idx", "12345678", "does not fit its tar"),
        ("train-000000.tar.idx", None, r"has neither train-000000\.tar\.idx nor"),
        ("train-000000.tar", None, r"train-000000\.tar is missing"),
    ],
)
def test_what_energon_does_not_say_is_not_guessed(tars: Path, file: str, content: str | None, message: str) -> None:
    energon(tars, "idx")
    (tars / file).unlink()
    if content is not None:
        (tars / file).write_text(content)
    with pytest.raises(UserError, match=message):
        pack(tars)
    assert not (tars / "index.json").exists()


def downloaded(folder: Path, kind: str) -> Path:
    """What img2dataset leaves: two shards, the second with rows that failed."""
    if kind == "webdataset":
        write_shards(folder, [6, 4], index=False)
        for number in (0, 1):
            (folder / f"train-00000{number}.tar").rename(folder / f"0000{number}.tar")
    for number, count in ((0, 6), (1, 4)):
        for n in range(count if kind == "files" else 0):
            stem = folder / f"0000{number}/0000{number}{n:04d}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            stem.with_suffix(".jpg").write_bytes(picture(n, form="JPEG"))
            stem.with_suffix(".txt").write_text(caption(n))
            stem.with_suffix(".json").write_text(json.dumps({"key": stem.name, "status": "success", "exif": "{}"}))
        status = {"success": count, **({"HTTP Error 404: Not Found": 3, "timed out": 1} if number else {})}
        stats = {"count": sum(status.values()), "successes": count, "status_dict": status}
        (folder / f"0000{number}_stats.json").write_text(json.dumps(stats))
        (folder / f"0000{number}.parquet").write_bytes(b"not read")
    return folder


@pytest.mark.parametrize("kind", ["webdataset", "files"])
def test_img2dataset(tmp_path: Path, kind: str) -> None:
    source, out = downloaded(tmp_path / "in", kind), tmp_path / "out"
    img2dataset.pack(str(source), str(out), None, 1, 6, True)
    checked(out / "index.json", [6, 4])
    assert json.loads((out / "pack.json").read_text())["left_out"] == {
        "img2dataset: HTTP Error 404: Not Found": {"count": 3, "examples": ["rows of 00001_stats.json"]},
        "img2dataset: timed out": {"count": 1, "examples": ["rows of 00001_stats.json"]},
    }
    if kind == "webdataset":
        assert (out / "00000.tar").samefile(source / "00000.tar")


def test_img2datasets_own_count_is_held_to_the_tar(tmp_path: Path) -> None:
    source = downloaded(tmp_path / "in", "webdataset")
    stats = json.loads((source / "00001_stats.json").read_text())
    (source / "00001_stats.json").write_text(json.dumps({**stats, "successes": 5}))
    with pytest.raises(UserError, match=r"00001\.tar holds 4 samples where its maker counted 5"):
        img2dataset.pack(str(source), None, None, 1, 6, True)
    (source / "00001_stats.json").write_text("{}")
    with pytest.raises(UserError, match=r"00001_stats\.json is not img2dataset's"):
        img2dataset.pack(str(source), None, None, 1, 6, True)
    with pytest.raises(UserError, match="out= is missing"):
        img2dataset.pack(str(downloaded(tmp_path / "files", "files")), None, None, 1, 6, True)
