"""Karpathy's splits of COCO and Flickr30k, from small files of the real layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.base.errors import UserError
from diptych.data.sets.karpathy import karpathy_set
from samples import picture


def write(folder: Path, images: list[dict[str, Any]]) -> str:
    (folder / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return str(folder / "dataset.json")


def image(number: int, split: str, captions: int, **more: str) -> dict[str, Any]:
    sentences = [{"raw": f"caption {k} of {number}\n", "tokens": []} for k in range(captions)]
    return {"filename": f"{number}.jpg", "split": split, "sentences": sentences, **more}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "val2014").mkdir()
    for name in ("val2014/1.jpg", "3.jpg"):
        (tmp_path / name).write_bytes(picture(1, form="JPEG"))
    return tmp_path


def test_the_test_split_with_five_captions(files: Path) -> None:
    told = [image(1, "test", 7, filepath="val2014"), image(2, "restval", 5), image(3, "test", 5)]
    (found,) = karpathy_set(write(files, told), str(files), "coco", 2)
    assert [key for key, *_ in found.items] == ["1.jpg", "3.jpg"] and found.classnames == []
    assert found.items[0][3].splitlines() == [f"caption {k} of 1" for k in range(5)]
    (batch,) = found.batches(8, 16)
    assert batch.images.shape == (2, 3, 16, 16)


def test_what_is_missing_or_other_is_said(files: Path) -> None:
    with pytest.raises(UserError, match=r"data.splits=.*none.json is missing: it is in Karpathy's"):
        karpathy_set(str(files / "none.json"), str(files), "coco", None)
    path = write(files, [image(1, "test", 5, filepath="val2014"), image(9, "test", 5)])
    with pytest.raises(UserError, match=r"lacks 1 of the 2 pictures, the first is 9.jpg"):
        karpathy_set(path, str(files), "coco", None)
    with pytest.raises(UserError, match=r"has 2 pictures of the split test, not 5,000"):
        karpathy_set(path, str(files), "coco", 5000)
    for text in ("{", "[]", '{"images": [{"split": "test"}]}', '{"images": 3}'):
        (files / "dataset.json").write_text(text)
        with pytest.raises(UserError, match="is not one of Karpathy's files"):
            karpathy_set(path, str(files), "coco", None)


def test_names_stay_below_the_folder_and_lines_are_captions(files: Path) -> None:
    for told in ({"filepath": ".."}, {"filepath": "/etc"}, {"filename": "/etc/passwd"}, {"filename": "a/../../x"}):
        path = write(files, [image(1, "test", 5, **told)])
        with pytest.raises(UserError, match=r"which is not below data\.path: refused"):
            karpathy_set(path, str(files), "coco", None)
    for told in ({"filename": 3}, {"filename": ""}, {"filepath": ["x"]}, {"sentences": [{"raw": 3}]}):
        path = write(files, [{**image(1, "test", 5), **told}])
        with pytest.raises(UserError, match="is not one of Karpathy's files"):
            karpathy_set(path, str(files), "coco", None)
    with pytest.raises(UserError, match="has no picture of the split test"):
        karpathy_set(write(files, [image(1, "val", 5)]), str(files), "coco", None)
    (files / "dataset.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="line 1: the byte 0xff is not UTF-8"):
        karpathy_set(str(files / "dataset.json"), str(files), "coco", None)
    (files / "dataset.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        karpathy_set(str(files / "dataset.json"), str(files), "coco", None)
