"""Tables of images and captions, as they come: with and without a header, with gaps, with addresses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import webdataset as wds
from pictures import write_folder

from diptych.data.sources import table
from diptych.errors import UserError
from samples import picture


def pack(path: Path, out: Path, **changes: object) -> list[dict]:
    given = {"part": None, "workers": 1, "shard_size": 2, "image": "image", "caption": "caption", "root": None}
    table.pack(str(path), str(out), **{**given, **changes})
    return list(wds.WebDataset([str(tar) for tar in sorted(out.glob("*.tar"))], shardshuffle=False))


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
    assert left_out(tmp_path / "out") == {"image is a URL, which is not downloaded here": 1, "no image in the row": 1}


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
    for tar in (tmp_path / "whole").glob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "parts" / tar.name).read_bytes()


def test_wrong_tables_die_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("filepath,title\na.png,b\n")
    (tmp_path / "t.parquet").write_text("none")
    (tmp_path / "t.xls").write_text("none")
    for name, changes, message in (
        ("t.csv", {}, r"has no column image, it has filepath, title: name the right ones with source\.image="),
        ("t.csv", {"image": 0}, "both be names of columns, or both be numbers"),
        ("t.xls", {}, "no table that is read"),
        ("t.parquet", {}, "no readable Parquet file"),
        ("gone.csv", {}, "is no file"),
    ):
        with pytest.raises(UserError, match=message):
            pack(tmp_path / name, tmp_path / "out", **changes)
