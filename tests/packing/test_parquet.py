"""Parquet as Hugging Face's hub and img2dataset write it becomes shards, and each row is accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import webdataset as wds
from pictures import contents

from diptych.base.errors import UserError
from diptych.packing import img2dataset, table
from diptych.packing.entries import LeftOut
from samples import picture

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "image": {"_type": "Image"},
    "caption": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
}


def hub(file: Path, first: int, count: int, changes: dict[int, object] | None = None, group: int = 4) -> None:
    """`count` rows as the `datasets` library writes them. changes: row -> what its image is instead"""
    numbers = range(first, first + count)
    images = [{"bytes": picture(n), "path": f"{n:03d}.png"} for n in numbers]
    for row, image in (changes or {}).items():
        images[row] = image
    schema = pa.schema(
        [("image", IMAGE), ("caption", pa.list_(pa.string())), ("label", pa.int64()), ("mask", pa.binary())],
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )
    columns = [images, [[f"a {n}", f"b {n}"] for n in numbers], [n % 3 - 1 for n in numbers], [b"x"] * count]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), file, row_group_size=group)


def pack(path: object, out: Path, **changes: object) -> list[dict]:
    given = {"part": None, "workers": 1, "shard_size": 3, "image": "image", "caption": "caption", "root": None}
    table.pack(str(path), str(out), **{**given, **changes})
    return list(wds.WebDataset([str(tar) for tar in sorted(out.glob("*.tar"))], shardshuffle=False))


def packed(out: Path) -> dict:
    return json.loads((out / "pack.json").read_text())


def test_embedded_pictures_of_several_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in range(3):
        hub(tmp_path / f"in/data/train-0000{part}-of-00003.parquet", 7 * part, 7)
    (tmp_path / "in/README.md").write_text("a card")
    samples = pack(tmp_path / "in", tmp_path / "out")
    assert [sample["png"] for sample in samples] == [picture(n) for n in range(21)]
    assert [sample["txt"].decode() for sample in samples] == [f"a {n}\nb {n}" for n in range(21)]
    told = [json.loads(sample["json"]) for sample in samples]
    assert [each.get("label") for each in told[:4]] == [None, "cat", "dog", None]
    assert told[8]["source"] == "008.png (train-00001-of-00003.parquet, row 2)" and "mask" not in told[0]
    printed = capsys.readouterr().out
    assert "21 seen = 21 packed + 0 left out" in printed and "not taken: mask" in printed
    for part in ("2/2", "1/2"):
        pack(tmp_path / "in", tmp_path / "cut", part=part)
    assert contents(tmp_path / "cut") == contents(tmp_path / "out")


def test_rows_without_a_picture_are_counted_by_reason(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(picture(9))
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/beside.png").write_bytes(picture(8))
    changes = {
        0: None,
        1: {"bytes": None, "path": None},
        2: {"bytes": None, "path": "gone.png"},
        3: {"bytes": b"", "path": "empty.png"},
        4: {"bytes": b"<html>", "path": None},
        5: {"bytes": None, "path": "../there.png"},
        6: {"bytes": None, "path": "https://example.org/a.png"},
        7: {"bytes": None, "path": "sub/beside.png"},
    }
    hub(tmp_path / "in/t.parquet", 0, 9, changes)
    assert [sample["png"] for sample in pack(tmp_path / "in/t.parquet", tmp_path / "out")] == [picture(8), picture(8)]
    found = packed(tmp_path / "out")
    assert found["seen"] == 9 and found["samples"] == 2
    assert {reason: of["examples"] for reason, of in found["left_out"].items()} == {
        "image file is missing": ["gone.png (t.parquet, row 3)"],
        "image is a URL, which is not downloaded here": ["https://example.org/a.png (t.parquet, row 7)"],
        "image of zero bytes": ["empty.png (t.parquet, row 4)"],
        "image path that leads out of source.root": ["../there.png (t.parquet, row 6)"],
        "no image in the row": ["t.parquet, row 1", "t.parquet, row 2"],
        "not an image": ["t.parquet, row 5"],
    }


def test_class_labels_as_captions(tmp_path: Path) -> None:
    hub(tmp_path / "t.parquet", 0, 6)
    samples = pack(tmp_path / "t.parquet", tmp_path / "out", caption="label")
    assert [sample["txt"] for sample in samples] == [b"cat", b"dog", b"cat", b"dog"]
    assert packed(tmp_path / "out")["left_out"] == {
        "empty caption": {"count": 2, "examples": ["000.png (t.parquet, row 1)", "003.png (t.parquet, row 4)"]}
    }


@pytest.mark.parametrize("source", ["table", "img2dataset"])
def test_what_img2dataset_wrote_as_parquet(tmp_path: Path, source: str) -> None:
    """Its rows that failed have no bytes; its column is called after the format."""
    (tmp_path / "in").mkdir()
    for shard in range(2):
        rows = {
            "url": [f"https://example.org/{n}" for n in range(4)],
            "caption": [f"caption {n}" for n in range(4)],
            "key": [f"{shard:05d}{n:04d}" for n in range(4)],
            "status": ["success", "failed_to_download", "success", "success"],
            "jpg": [None if n == 1 else picture(10 * shard + n) for n in range(4)],
        }
        pq.write_table(pa.table(rows), tmp_path / f"in/{shard:05d}.parquet")
        stats = {"successes": 3, "status_dict": {"success": 3, "HTTP Error 404": 1}}
        (tmp_path / f"in/{shard:05d}_stats.json").write_text(json.dumps(stats))
    out = tmp_path / "out"
    if source == "table":
        samples = pack(tmp_path / "in", out)
    else:
        img2dataset.pack(str(tmp_path / "in"), str(out), None, 1, 3, False)
        samples = list(wds.WebDataset([str(tar) for tar in sorted(out.glob("*.tar"))], shardshuffle=False))
    assert [sample["png"] for sample in samples] == [picture(n) for n in (0, 2, 3, 10, 12, 13)]
    assert json.loads(samples[0]["json"])["key"] == "000000000"
    assert packed(out)["seen"] == 8
    assert packed(out)["left_out"] == {
        "no image in the row": {"count": 2, "examples": ["00000.parquet, row 2", "00001.parquet, row 2"]}
    }


def test_a_row_group_is_not_held_whole(tmp_path: Path) -> None:
    hub(tmp_path / "t.parquet", 0, 200, group=1000)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 1
    samples = pack(tmp_path / "t.parquet", tmp_path / "out", shard_size=90)
    assert [sample["png"] for sample in samples] == [picture(n) for n in range(200)]
    from diptych.packing.parquet import BATCH, _column

    assert len(_column(str(tmp_path / "t.parquet"), 0, "image").values) <= BATCH < 200


def test_wrong_parts_stop_with_one_sentence(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "test-00000-of-00001", "train-00001-of-00002"):
        hub(tmp_path / f"splits/{name}.parquet", 0, 2)
    with pytest.raises(UserError, match=r"holds the splits test, train: give one, as 'path=.*/test-\*.parquet'"):
        pack(tmp_path / "splits", tmp_path / "out")
    assert len(pack(tmp_path / "splits/train-*.parquet", tmp_path / "out")) == 4
    hub(tmp_path / "two/a/train-00000-of-00001.parquet", 0, 2)
    hub(tmp_path / "two/b/train-00000-of-00001.parquet", 0, 2)
    with pytest.raises(UserError, match="holds the splits a/train, b/train"):
        pack(tmp_path / "two", tmp_path / "other")
    (tmp_path / "splits/train-00000-of-00002.parquet").unlink()
    (tmp_path / "splits/test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="lacks 1 of 2 parts of train, as the one numbered 0"):
        pack(tmp_path / "splits", tmp_path / "other")
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "splits/a.parquet")
    with pytest.raises(UserError, match=r"label, mask, and a\.parquet image: pack"):
        pack(tmp_path / "splits/*.parquet", tmp_path / "other")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["image", "caption", "caption"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="has two columns caption"):
        pack(tmp_path / "twice.parquet", tmp_path / "other")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no \.parquet"):
        pack(tmp_path / "none", tmp_path / "other")


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    """Each of its pages in turn: the end of the file, which says where they are, is whole."""
    file = tmp_path / "a.parquet"
    hub(file, 0, 8)
    whole, refused = file.read_bytes(), 0
    for at in range(4, len(whole) - 2000, 97):
        file = tmp_path / f"{at}.parquet"
        file.write_bytes(whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 60]) + whole[at + 60 :])
        try:
            rows = [entry.sample("0") for entry in table.Table([file], "image", "caption", tmp_path).entries(0)]  # type: ignore[union-attr]
            assert len(rows) == 8
        except LeftOut:
            continue
        except UserError as error:
            assert "is not a readable Parquet file" in str(error) or "holds fewer rows than it says" in str(error)
            refused += 1
    assert refused
