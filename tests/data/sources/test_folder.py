"""A folder becomes shards: every usable picture, byte for byte, and a count of the others."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import webdataset as wds
from pictures import contents, write_folder

from diptych.data.files import Files
from diptych.data.index import open_index, scan
from diptych.data.sources import folder
from diptych.errors import UserError
from samples import caption, picture


def pack(path: Path, out: Path, part: str | None = None, workers: int = 1, shard_size: int = 8) -> None:
    folder.pack(str(path), str(out), part, workers, shard_size)


def read(out: Path) -> list[dict]:
    """What webdataset itself reads of the packed set."""
    return list(wds.WebDataset([str(tar) for tar in sorted(out.glob("*.tar"))], shardshuffle=False))


def test_webdataset_reads_every_picture_as_it_was(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 30)
    pack(source, tmp_path / "out")
    samples = read(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(30)]
    for sample in samples:
        name = json.loads(sample["json"])["source"]
        assert sample["png"] == (source / name).read_bytes()
        assert sample["txt"].decode() == caption(int(Path(name).stem))
    assert len({json.loads(sample["json"])["source"] for sample in samples}) == 30


def test_the_index_is_what_a_scan_finds(tmp_path: Path) -> None:
    pack(write_folder(tmp_path / "in", 30), tmp_path / "out")
    index = open_index(str(tmp_path / "out/index.json"))
    assert [shard.samples for shard in index.shards] == [8, 8, 8, 6]
    for number, shard in enumerate(index.shards):
        scanned, offsets = scan(shard.path)
        assert (scanned.samples, scanned.bytes) == (shard.samples, shard.bytes)
        assert index.offsets(number, Files()).tolist() == offsets.tolist()


def test_what_gives_no_sample_is_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "in", 12)
    (source / "set0/000.png").write_bytes(b"")
    (source / "set1/001.png").write_bytes(b"<html>not found</html>")
    (source / "set2/002.txt").unlink()
    (source / "set0/003.txt").write_text(" \n")
    (source / "set1/004.txt").write_bytes(b"caf\xe9")
    (source / "set2/005.png").unlink()
    (source / "set2/005.png").symlink_to("nowhere")
    pack(source, tmp_path / "out")
    packed = json.loads((tmp_path / "out/pack.json").read_text())
    assert packed["samples"] == len(read(tmp_path / "out")) == 6
    assert packed["left_out"] == {
        reason: {"count": 1, "examples": [name]}
        for reason, name in {
            "caption file is not readable text": "set1/004.png",
            "empty caption": "set0/003.png",
            "image file is missing": "set2/005.png",
            "image of zero bytes": "set0/000.png",
            "no caption": "set2/002.png",
            "not an image": "set1/001.png",
        }.items()
    }
    assert "left out: 1 × image of zero bytes, as set0/000.png" in capsys.readouterr().out


def test_the_extension_is_the_contents_and_the_json_beside_is_kept(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.b.JPEG").write_bytes(picture(0, form="WEBP"))
    (tmp_path / "in/a.b.json").write_text(json.dumps({"captions": ["one", "two\nlines"], "licence": "CC0"}))
    pack(tmp_path / "in", tmp_path / "out")
    (sample,) = read(tmp_path / "out")
    assert sample["webp"] == picture(0, form="WEBP") and sample["txt"] == b"one\ntwo lines"
    assert json.loads(sample["json"])["licence"] == "CC0" and json.loads(sample["json"])["source"] == "a.b.JPEG"


@pytest.mark.parametrize("kind", ["json", "csv", "tsv", "parquet"])
def test_captions_in_one_file(tmp_path: Path, kind: str) -> None:
    source = write_folder(tmp_path / "in", 6, captions=False)
    names = [f"set{n % 3}/{n:03d}.png" for n in range(5)] + ["gone.png"]
    file = source / f"captions.{kind}"
    if kind == "json":
        file.write_text(json.dumps({name: [name.upper()] for name in names}))
    elif kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"image": names, "caption": [name.upper() for name in names]}), file)
    else:
        with file.open("w", newline="") as stream:
            rows = csv.writer(stream, delimiter="\t" if kind == "tsv" else ",")
            rows.writerows([("image", "caption"), *((name, name.upper()) for name in names)])
    pack(source, tmp_path / "out")
    assert {json.loads(s["json"])["source"]: s["txt"].decode() for s in read(tmp_path / "out")} == {
        name: name.upper() for name in names[:5]
    }
    left_out = json.loads((tmp_path / "out/pack.json").read_text())["left_out"]
    assert {reason: of["examples"] for reason, of in left_out.items()} == {
        "image file is missing": ["gone.png"],
        "no caption": ["set2/005.png"],
    }


def test_processes_and_parts_change_no_byte(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 50)
    (source / "set1/001.png").write_bytes(b"")
    pack(source, tmp_path / "one")
    pack(source, tmp_path / "three", workers=3)
    for part in ("3/4", "1/4", "4/4", "2/4"):
        assert not (tmp_path / "cut/index.json").exists()
        pack(source, tmp_path / "cut", part=part)
    whole = contents(tmp_path / "one")
    assert len(whole) == 2 + 2 * 7
    assert contents(tmp_path / "three") == whole == contents(tmp_path / "cut")


def test_parts_are_merged_only_when_they_are_all_there_and_of_one_job(tmp_path: Path) -> None:
    source, out = write_folder(tmp_path / "in", 30), tmp_path / "out"
    with pytest.raises(UserError, match="holds no part"):
        pack(source, out, part="merge")
    for part in ("1/3", "3/3"):
        pack(source, out, part=part)
    with pytest.raises(UserError, match=r"1 parts are missing or unfinished in .*: run part=2/3"):
        pack(source, out, part="merge")
    with pytest.raises(UserError, match="a job in 3 parts, not 1"):
        pack(source, out)
    (source / "set1/001.png").rename(source / "set1/renamed.png")
    with pytest.raises(UserError, match=r"3-of-3\.jsonl was begun with another source"):
        pack(source, out, part="3/3")
    with pytest.raises(UserError, match=r"of another job than the first part"):
        pack(source, out, part="2/3")
    assert not (out / "index.json").exists()
    (source / "set1/renamed.png").rename(source / "set1/001.png")
    (out / "parts/2-of-3.jsonl").unlink()
    pack(source, out, part="2/3")
    assert open_index(str(out / "index.json")).samples == 30
    (out / "train-000001.tar").write_bytes(b"shorter")
    with pytest.raises(UserError, match=r"train-000001\.tar changed since it was packed: run part=2/3"):
        pack(source, out, part="merge")
    pack(source, out, part="2/3")
    assert open_index(str(out / "index.json")).samples == 30


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "x", "1/0"])
def test_a_part_that_is_none_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(UserError, match=r"is no part: take part=3/64"):
        pack(tmp_path, tmp_path / "out", part=part)


def test_wrong_inputs_die_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "no", "is no folder"), (tmp_path / "empty", "holds no image")):
        with pytest.raises(UserError, match=message):
            pack(path, tmp_path / "out")
    source = write_folder(tmp_path / "in", 3, captions=False)
    with pytest.raises(UserError, match="No row of the source gives a sample"):
        pack(source, tmp_path / "out")
    with pytest.raises(UserError, match=r"source\.shard_size=0"):
        pack(source, tmp_path / "other", shard_size=0)
    with pytest.raises(UserError, match="workers=0"):
        pack(source, tmp_path / "third", workers=0)
    with pytest.raises(UserError, match="can't be written"):
        pack(source, source / "set0/000.png")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/index.json").write_text("{}")
    with pytest.raises(UserError, match="not of this job"):
        pack(source, tmp_path / "taken")
