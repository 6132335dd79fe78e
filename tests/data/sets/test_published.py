"""Published sets from small folders of the real layouts: exact subsets and splits, and what is missing named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.commands.resolvers import register_resolvers
from diptych.data.sets import benchmarks
from diptych.data.sets.published import karpathy_set, numbered_folders, objectnet, wnid_folders
from diptych.evaluation.probe import columns
from samples import picture


def fill(root: Path, folders: list[str]) -> Path:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        (root / folder / "one.JPEG").write_bytes(picture(number))
    return root


def test_two_hundred_classes_of_imagenet_r_in_imagenets_order_and_by_its_names(tmp_path: Path) -> None:
    ids = benchmarks.wnids("imagenet-r")
    root = fill(tmp_path, ids)
    (found,) = wnid_folders(str(root), "imagenet-r", "imagenet-r", 200)
    assert len(found.classnames) == len(found) == 200 and len(found.templates) == 80
    assert [key for key, *_ in found.items] == [f"{each}/one.JPEG" for each in ids]
    assert [label for *_, label, _ in found.items] == list(range(200))
    names = dict(zip(benchmarks.wnids("imagenet1k"), benchmarks.class_names("imagenet1k"), strict=True))
    assert found.classnames == [names[each] for each in ids]
    (batch,) = found.batches(256, 16)
    assert batch.images.shape == (200, 3, 16, 16)


def test_v2_goes_by_number_not_by_the_order_of_strings(tmp_path: Path) -> None:
    root = fill(tmp_path, [str(label) for label in range(1000)])
    (found,) = numbered_folders(str(root), "imagenet-v2", 1000)
    assert [key for key, *_ in found.items][9:12] == ["9/one.JPEG", "10/one.JPEG", "11/one.JPEG"]
    assert found.classnames[10] == benchmarks.class_names("imagenet1k")[10]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    ids = benchmarks.wnids("imagenet-a")
    with pytest.raises(UserError, match="is not a folder"):
        wnid_folders(str(tmp_path / "none"), "imagenet-a", "imagenet-a", None)
    root = fill(tmp_path / "few", ids[1:])
    with pytest.raises(UserError, match=rf"lacks 1 of the 200 class folders of imagenet-a \({ids[0]}\)"):
        wnid_folders(str(root), "imagenet-a", "imagenet-a", None)
    fill(root, [ids[0], "n99999999"])
    with pytest.raises(UserError, match=r"1 folders of no class of imagenet-a \(n99999999\)"):
        wnid_folders(str(root), "imagenet-a", "imagenet-a", None)
    (root / "n99999999/one.JPEG").unlink()
    (root / "n99999999").rmdir()
    with pytest.raises(UserError, match=r"holds 200 pictures, and imagenet-a has 7,500"):
        wnid_folders(str(root), "imagenet-a", "imagenet-a", 7500)


def test_what_stands_beside_the_pictures_is_counted(tmp_path: Path) -> None:
    ids = benchmarks.wnids("imagenet-a")
    root = fill(tmp_path, ids)
    (root / "__MACOSX").mkdir()
    (root / ids[0] / "._one.JPEG").write_bytes(b"macOS")
    (root / ids[1] / "images").mkdir()
    (root / ids[1] / "one.JPEG").rename(root / ids[1] / "images/one.JPEG")  # as Tiny ImageNet has it
    (root / "README.txt").write_text("about")
    (found,) = wnid_folders(str(root), "imagenet-a", "imagenet-a", 200)
    assert [label for *_, label, _ in found.items] == list(range(200))
    assert found.unused == {
        "no picture by its name": ["README.txt"],
        "macOS's copies (__MACOSX, ._NAME)": ["__MACOSX", f"{ids[0]}/._one.JPEG"],
    }
    (root / ids[2] / "one.JPEG").unlink()
    (found,) = wnid_folders(str(root), "imagenet-a", "imagenet-a", None)
    assert len(found.classnames) == 200 and found.unused["a folder without a picture"] == [ids[2]]


@pytest.fixture
def red_framed(tmp_path: Path) -> Path:
    """ObjectNet's layout: three classes, of which ImageNet has two; blue pictures in a red frame."""
    (tmp_path / "mappings").mkdir()
    labels = {"zebra_print": "Zebra print", "chair": "Chair", "banana": "Banana"}
    (tmp_path / "mappings/folder_to_objectnet_label.json").write_text(json.dumps(labels))
    shared = {"Chair": "barber chair; folding chair", "Banana": "banana"}
    (tmp_path / "mappings/objectnet_to_imagenet_1k.json").write_text(json.dumps(shared))
    for folder in labels:
        (tmp_path / "images" / folder).mkdir(parents=True)
        image = Image.new("RGB", (44, 36), "red")
        image.paste((0, 0, 255), (2, 2, 42, 34))
        image.save(tmp_path / "images" / folder / "one.png")
    return tmp_path


def test_objectnet_takes_the_shared_classes_and_cuts_the_frame_off(red_framed: Path) -> None:
    (found,) = objectnet(str(red_framed), "objectnet", 2)
    assert found.classnames == ["banana", "chair"]
    assert [key for key, *_ in found.items] == ["banana/one.png", "chair/one.png"]
    (batch,) = found.batches(8, 16)
    assert (batch.images[:, 2] == 255).all() and (batch.images[:, :2] == 0).all()
    found.border = 0
    (framed,) = found.batches(8, 16)
    assert framed.images[:, 0].any()


def test_objectnet_names_what_is_missing(red_framed: Path) -> None:
    (red_framed / "mappings/objectnet_to_imagenet_1k.json").write_text('{"Chair": "x", "Sofa": "y"}')
    with pytest.raises(UserError, match="2 classes are in objectnet_to_imagenet_1k"):
        objectnet(str(red_framed), "objectnet", None)
    (red_framed / "mappings/objectnet_to_imagenet_1k.json").write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        objectnet(str(red_framed), "objectnet", None)
    (red_framed / "mappings/objectnet_to_imagenet_1k.json").unlink()
    with pytest.raises(UserError, match="is missing: it comes with ObjectNet"):
        objectnet(str(red_framed), "objectnet", None)


def test_the_six_views_come_from_one_config(tmp_path: Path) -> None:
    """`data=imagenet_shifts` as composed, on folders with a picture a class; a set may be left out."""
    for name, classes in (("imagenet", "imagenet1k"), ("imagenet-sketch", "imagenet1k"), ("imagenet-r", "imagenet-r"),
                          ("imagenet-a", "imagenet-a"), ("train", "imagenet1k")):  # fmt: skip
        fill(tmp_path / name, benchmarks.wnids(classes))
    fill(tmp_path / "imagenet-v2", [str(label) for label in range(1000)])
    counts = [f"data.evaluate.sets.imagenet{each}.pictures=null" for each in ("", "_v2", "_r", "_a", "_sketch")]
    given = ["data=imagenet_shifts", f"data.root={tmp_path}", "data.evaluate.sets.objectnet=null", *counts]
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", [*given, "checkpoint=x"])
    sets = instantiate(cfg.data.evaluate, _convert_="all")
    assert [(each.name, len(each.classnames), each.role) for each in sets] == [
        ("imagenet", 1000, "validation"), ("imagenet-v2", 1000, "shift"), ("imagenet-r", 200, "shift"),
        ("imagenet-a", 200, "shift"), ("imagenet-sketch", 1000, "shift"),
    ]  # fmt: skip
    train = instantiate(cfg.data.labelled)
    assert (train.role, len(train)) == ("train", 1000)
    asked = columns(train.classnames, sets[2].classnames)
    assert asked is not None and [train.classnames[place] for place in asked] == sets[2].classnames
    assert columns(train.classnames, ["a thing that is no class"]) is None


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
