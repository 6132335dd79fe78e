"""Tables of images and captions, as they come: with and without a header, with gaps, with addresses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import webdataset as wds
from found import found
from pictures import write_folder

from diptych.base.errors import UserError
from diptych.packing import table
from diptych.packing.table import FEWER, MORE, QUOTES
from samples import picture


def pack(path: Path, out: Path, **changes: object) -> list[dict]:
    given = {"part": None, "workers": 1, "shard_size": 2, "image": "image", "caption": "caption", "root": None}
    table.pack(str(path), str(out), **{**given, **changes})
    return list(wds.WebDataset([str(tar) for tar in found(out, "*.tar")], shardshuffle=False))


def left_out(out: Path) -> dict[str, int]:
    described = json.loads((out / "pack.json").read_text())["left_out"]
    return {reason: of["count"] for reason, of in described.items()}


def test_conceptual_captions_kind(tmp_path: Path) -> None:
    """A TSV without a header and without quoting; what is an address is counted, not fetched."""
    write_folder(tmp_path, 3)
    rows = ['a "quoted\tset0/000.png', "b\thttps://example.org/b.jpg", "c\tset1/001.png", "d", 'e" f\tset2/002.png']
    (tmp_path / "cc.tsv").write_text("\n".join(rows) + "\n")
    samples = pack(tmp_path / "cc.tsv", tmp_path / "out", image=1, caption=0)
    assert [s["txt"].decode() for s in samples] == ['a "quoted', "c", 'e" f']
    assert [s["__key__"] for s in samples] == ["000000000", "000000002", "000000004"]
    assert samples[0]["png"] == picture(0)
    assert left_out(tmp_path / "out") == {"image is a URL, which is not downloaded here": 1, FEWER: 1}


def test_columns_by_name_several_captions_and_the_rest(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 2)
    text = '\ufeffid,image,alt,title\n7,set0/000.png,"two\nlines, one caption",second\n8,set1/001.png,,only\n9,,x,y\n'
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    samples = pack(tmp_path / "pairs.csv", tmp_path / "out", caption=["alt", "title"], root=str(tmp_path / "images"))
    assert [s["txt"].decode() for s in samples] == ["two lines, one caption\nsecond", "only"]
    assert json.loads(samples[0]["json"]) == {"source": "set0/000.png", "id": "7"}
    assert left_out(tmp_path / "out") == {"no image in the row": 1}


def test_text_that_is_no_utf8_costs_its_row_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    rows = [b"image,caption", b"set0/000.png,caf\xe9", b"set1/001.png,caf\xc3\xa9", b"caf\xe9.png,x"]
    (tmp_path / "t.csv").write_bytes(b"\n".join(rows))
    assert [s["txt"].decode() for s in pack(tmp_path / "t.csv", tmp_path / "out")] == ["café"]
    assert left_out(tmp_path / "out") == {"caption is not UTF-8": 1, "image file is missing": 1}


@pytest.mark.parametrize("group", [1, 3, 10])
def test_parquet_by_parts(tmp_path: Path, group: int) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_folder(tmp_path, 7)
    names = [f"set{n % 3}/{n:03d}.png" for n in range(7)]
    columns = {
        "image": names,
        "caption": [[f"a {n}", f"b {n}"] for n in range(7)],
        "score": [n / 2 for n in range(7)],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=group)
    whole = pack(tmp_path / "t.parquet", tmp_path / "whole")
    assert [s["txt"].decode() for s in whole] == [f"a {n}\nb {n}" for n in range(7)]
    assert json.loads(whole[3]["json"])["score"] == 1.5
    for part in ("2/2", "1/2"):
        pack(tmp_path / "t.parquet", tmp_path / "parts", part=part)
    for tar in found(tmp_path / "whole", "*.tar"):
        assert tar.read_bytes() == (tmp_path / "parts" / tar.name).read_bytes()


def examples(out: Path) -> dict[str, list[str]]:
    described = json.loads((out / "pack.json").read_text())["left_out"]
    return {reason: of["examples"] for reason, of in described.items()}


def test_rows_that_do_not_fit_the_header_are_named_by_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, 6)
    lines = [
        "image,caption",
        "set0/000.png,a dog, running on a beach",
        'set1/001.png,"a dog, running"',
        "",
        "set2/002.png",
        'set0/003.png,"two',
        'lines"',
        'set1/004.png,"a quote" too many',
        "set2/005.png,a cat,,",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    samples = pack(tmp_path / "t.csv", tmp_path / "out")
    assert [s["txt"].decode() for s in samples] == ["a dog, running", "two lines", "a cat"]
    assert examples(tmp_path / "out") == {
        MORE: ["t.csv, line 2"],
        FEWER: ["t.csv, line 5"],
        QUOTES: ["t.csv, line 8"],
    }
    assert "6 seen = 3 packed + 3 left out" in capsys.readouterr().out


def test_a_quote_that_never_ends_costs_lines_that_are_all_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 6)
    lines = [f"set{n % 3}/{n:03d}.png,{n}" for n in range(6)]
    lines[2] = 'set2/002.png,"2'
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *lines]))
    assert [s["txt"].decode() for s in pack(tmp_path / "t.csv", tmp_path / "out")] == ["0", "1"]
    assert examples(tmp_path / "out") == {QUOTES: [f"t.csv, line {line}" for line in range(4, 8)]}


def test_where_no_row_fits_the_sentence_says_why(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,caption\n" + "1.jpg,a dog, running\n" * 3)
    with pytest.raises(
        UserError, match=r"Every row of .*t\.csv is bad \(3 rows\), as t\.csv, line 2: .*between quotes"
    ):
        pack(tmp_path / "t.csv", tmp_path / "out")
    (tmp_path / "u.csv").write_text("image,caption\nhttps://a.org/1.jpg,a dog\n")
    with pytest.raises(UserError, match=r"most often: image is a URL, which is not downloaded here"):
        pack(tmp_path / "u.csv", tmp_path / "out")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks(tmp_path: Path, end: str, begin: str) -> None:
    write_folder(tmp_path, 2)
    rows = [begin + '"image", caption ', "set0/000.png,a\u2028b\x0bc\x85d", "set1/001.png,e"]
    (tmp_path / "t.csv").write_bytes(end.join(rows).encode())
    assert [s["txt"].decode() for s in pack(tmp_path / "t.csv", tmp_path / "out")] == ["a b c d", "e"]


def test_null_bytes_and_what_only_looks_empty(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    rows = ["image,caption", "set0/000.png,a\0b", "set1/001.png,\ufeff\u200b", "set2/002\0.png,c", "set0/003.png,d"]
    (tmp_path / "t.csv").write_bytes("\n".join(rows).encode())
    assert [s["txt"].decode() for s in pack(tmp_path / "t.csv", tmp_path / "out")] == ["d"]
    assert examples(tmp_path / "out") == {
        "caption with a null byte": ["set0/000.png"],
        "empty caption": ["set1/001.png"],
        "image file can't be read": ["set2/002\\x00.png"],
    }


def test_no_path_leads_out_of_the_root(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", 2)
    write_folder(tmp_path / "other", 1)
    outside = ["../other/set0/000.png", str(tmp_path / "other/set0/000.png"), "set0/../../other/set0/000.png"]
    inside = ["set0/000.png", str(tmp_path / "in/set1/001.png"), "set1/../set0/000.png"]
    (tmp_path / "in/t.csv").write_text("image,caption\n" + "".join(f"{name},a\n" for name in [*outside, *inside]))
    assert len(pack(tmp_path / "in/t.csv", tmp_path / "out")) == 3
    named = examples(tmp_path / "out")["image path that leads out of source.root"]
    assert named == [f"{name} (t.csv, line {line})" for line, name in enumerate(outside, 2)]
    assert len(pack(tmp_path / "in/t.csv", tmp_path / "all", root=str(tmp_path / "in"))) == 3
    (tmp_path / "other/t.csv").write_text(f"image,caption\n{outside[1]},a\n")
    assert len(pack(tmp_path / "other/t.csv", tmp_path / "slash", root="/")) == 1


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / "t.csv").write_text("image,caption,caption\nset0/000.png,a,b\n")
    with pytest.raises(UserError, match=r"has two columns caption, the 2 and 3\. ones: rename"):
        pack(tmp_path / "t.csv", tmp_path / "out")
    (tmp_path / "u.csv").write_text("image,id,caption,id\nset0/000.png,1,a,2\n")
    (sample,) = pack(tmp_path / "u.csv", tmp_path / "out")
    assert json.loads(sample["json"]) == {"source": "set0/000.png", "id": "1", "id (column 4)": "2"}


def test_what_is_no_picture_file_is_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 2 << 30)
    rows = "image,caption\nset0/000.png,a\nfolder.png,b\nzero.png,c\nhuge.png,d\n"
    (tmp_path / "T.CSV").write_text(rows)
    assert len(pack(tmp_path / "T.CSV", tmp_path / "out")) == 1
    assert examples(tmp_path / "out") == {
        "image file is missing": ["folder.png"],
        "image file is none, but a pipe, a device or a socket": ["zero.png"],
        "image file of more than 1 GB": ["huge.png"],
    }


def test_wrong_tables_stop_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("filepath,title\na.png,b\n")
    (tmp_path / "t.parquet").write_text("none")
    (tmp_path / "t.xls").write_text("none")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "header.csv").write_text("image,caption\n")
    (tmp_path / "wide.csv").write_text("image,caption\na.png,b\n", encoding="utf-16")
    (tmp_path / "t2.csv").write_text("a.png,b\n")
    for name, changes, message in (
        ("t.csv", {}, r"has no column image, it has filepath, title: name the right ones with source\.image="),
        ("t.csv", {"image": 0}, "both be names of columns, or both be numbers"),
        ("t.xls", {}, "no table that can be read"),
        ("t.parquet", {}, "not a readable Parquet file"),
        ("gone.csv", {}, "is no file"),
        ("empty.csv", {}, "is empty"),
        ("empty.tsv", {"image": 0, "caption": 1}, "is empty"),
        ("header.csv", {}, "holds no row"),
        ("wide.csv", {}, "is not UTF-8 but UTF-16"),
        ("t2.csv", {"image": 0, "caption": 5}, "has no column 5, it has 0, 1"),
    ):
        with pytest.raises(UserError, match=message):
            pack(tmp_path / name, tmp_path / "out", **changes)
