"""A folder becomes shards: every usable picture, byte for byte, and a count of the others."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import webdataset as wds
from found import found
from pictures import contents, write_folder

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.index import open_index, scan
from diptych.packing import folder
from samples import caption, picture


def pack(path: Path, out: Path, part: str | None = None, workers: int = 1, shard_size: int = 8) -> None:
    folder.pack(str(path), str(out), part, workers, shard_size)


def read(out: Path) -> list[dict]:
    """What webdataset itself reads of the packed set."""
    return list(wds.WebDataset([str(tar) for tar in found(out, "*.tar")], shardshuffle=False))


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
            "a link that leads nowhere": "set2/005.png",
            "a caption without an image": "set2/005.txt",
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


def packed(out: Path) -> dict:
    return json.loads((out / "pack.json").read_text())


def named(out: Path) -> dict[str, list[str]]:
    return {reason: of["examples"] for reason, of in packed(out)["left_out"].items()}


def test_every_file_is_packed_or_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Odd extensions, links, and what systems leave."""
    source, other = write_folder(tmp_path / "in", 3), write_folder(tmp_path / "other", 4)
    for name, extension in (("a.JFIF", "TXT"), ("b.jpe", "Json"), ("c.avif", "txt")):
        form = "AVIF" if name == "c.avif" else "JPEG"
        (source / name).write_bytes(picture(0, form=form))
        (source / f"{name[0]}.{extension}").write_text('{"caption": "b"}' if extension == "Json" else name[0])
    (source / "linked").symlink_to(other)
    (source / "back").symlink_to(source)
    for name in ("._a.JFIF", ".DS_Store", "Thumbs.db", "__MACOSX/x.jpg", "notes.md", "d.heic", "e.txt", "f.jpg"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"x")
    (source / "c.TXT").write_text("again")
    pack(source, tmp_path / "out")
    names = [json.loads(sample["json"])["source"] for sample in read(tmp_path / "out")]
    assert names == [
        *("a.JFIF", "b.jpe", "c.avif"),
        *("linked/set0/000.png", "linked/set0/003.png", "linked/set1/001.png", "linked/set2/002.png"),
        *("set0/000.png", "set1/001.png", "set2/002.png"),
    ]
    assert named(tmp_path / "out") == {
        "a caption without an image": ["e.txt"],
        "a folder that is listed already, reached by a link": ["back"],
        "a picture of a kind that isn't read": ["d.heic"],
        "a second caption file of an image": ["c.TXT"],
        "a system's own file (.DS_Store, Thumbs.db)": [".DS_Store", "Thumbs.db"],
        "macOS's copies (__MACOSX, ._NAME)": ["._a.JFIF", "__MACOSX"],
        "neither a picture nor a caption": ["notes.md"],
        "no caption": ["f.jpg"],
    }
    printed = capsys.readouterr().out
    assert "20 seen = 10 packed + 10 left out" in printed and packed(tmp_path / "out")["seen"] == 20
    assert ": 1, as linked; they are followed" in printed and "as ._a.JFIF, __MACOSX\n" in printed


def test_shards_below_the_folder_are_no_part_of_it(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 9)
    pack(source, source / "shards", part="1/2")
    pack(source, source / "shards", part="2/2")
    assert packed(source / "shards")["seen"] == 9 and len(read(source / "shards")) == 9
    with pytest.raises(UserError, match=r"out=.*in is the folder of the images"):
        pack(source, source)


def test_a_stray_file_does_not_stop_a_packing_that_goes_on(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 9)
    pack(source, tmp_path / "out", part="1/2")
    (source / "notes.md").touch()
    pack(source, tmp_path / "out", part="2/2")
    pack(source, tmp_path / "out", part="1/2")
    assert named(tmp_path / "out") == {"neither a picture nor a caption": ["notes.md"]}


def test_bad_rows_of_the_file_of_captions_are_counted(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 3, captions=False)
    rows = ["image,caption", "set0/000.png,a dog, running", "set1/001.png,a", "../x.png,b", "./set2/002.png,c"]
    (source / "captions.csv").write_text("\n".join(rows))
    pack(source, tmp_path / "out")
    assert named(tmp_path / "out") == {
        "captions.csv: image path that leads out of source.root": ["../x.png (captions.csv, line 4)"],
        "captions.csv: more fields in the row than columns": ["captions.csv, line 2"],
        "no caption": ["set0/000.png"],
    }
    (source / "captions.csv").unlink()
    (source / "captions.json").write_text(json.dumps({"set0/000.png": "a", "/etc/passwd": "b"}))
    pack(source, tmp_path / "json")
    assert named(tmp_path / "json")["captions.json: image path that leads out of source.root"] == ["/etc/passwd"]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 1)
    for name in (b"caf\xe9.png", b"caf\xe9.txt"):
        with open(os.fsencode(source) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(picture(1) if name.endswith(b"png") else b"a")
    with open(os.fsencode(source) + b"/th\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(picture(1))
    pack(source, tmp_path / "out")
    assert [s["txt"].decode() for s in read(tmp_path / "out")] == ["a", caption(0)]
    assert named(tmp_path / "out") == {"no caption": ["th\\udce9.png"]}


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
    with pytest.raises(UserError, match=r"Missing or unfinished in .*: 1 part; run part=2/3"):
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
    with pytest.raises(UserError, match=r"is not valid: give part=3/64"):
        pack(tmp_path, tmp_path / "out", part=part)


def test_captions_nested_too_deeply_are_one_sentence(tmp_path: Path) -> None:
    (write_folder(tmp_path / "in", 1) / "captions.json").write_bytes(b"[" * 10**5)
    with pytest.raises(UserError, match=r"captions\.json is nested too deeply"):
        pack(tmp_path / "in", tmp_path / "out")


def test_pipes_beside_pictures_are_left_out_by_name(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", 3)
    os.mkfifo(source / "pipe.png")
    (source / "set1/001.txt").unlink()
    os.mkfifo(source / "set1/001.txt")
    pack(source, tmp_path / "out")
    assert named(tmp_path / "out") == {
        "neither a file nor a folder": ["pipe.png", "set1/001.txt"],
        "no caption": ["set1/001.png"],
    }


def test_wrong_inputs_stop_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "no", "is no folder"), (tmp_path / "empty", "holds no image")):
        with pytest.raises(UserError, match=message):
            pack(path, tmp_path / "out")
    source = write_folder(tmp_path / "in", 3)
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank/1.png").write_bytes(picture(0))
    (tmp_path / "blank/1.txt").write_text("")
    with pytest.raises(UserError, match="No row of the source gives a sample"):
        pack(tmp_path / "blank", tmp_path / "out")
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


def test_a_folder_a_class_is_told_which_command_fits(tmp_path: Path) -> None:
    for name in ("my set/cat/1.png", "my set/dog/2.png", "flat/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    for name, said in (
        (
            "my set",
            r"2 images in 2 folders \(cat, dog\) and no caption, .* data=folder 'data\.path=.*/my set'; to",
        ),
        ("flat", r"1 image and no caption: write NAME\.txt"),
    ):
        with pytest.raises(UserError, match=said):
            folder.pack(str(tmp_path / name), str(tmp_path / "out"), None, 1, 10)
    assert not (tmp_path / "out").exists()
