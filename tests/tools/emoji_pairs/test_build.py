"""The builder on made-up packages, and what is committed under data/emoji."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emoji_samples import names, styles
from found import found
from PIL import Image
from webdataset import WebDataset

from diptych.base.files import ROOT
from emoji_pairs.build import HELD_OUT, UNSEEN, build, pack
from emoji_pairs.captions import CAPTIONS
from emoji_pairs.drawings import SIZE, coding_error, encode, render, svg
from emoji_pairs.splits import REDRAWN, SHIFTS, TRAIN

EMOJI = ROOT / "data" / "emoji"
SETS = ("heldout", *SHIFTS, REDRAWN, "unseen")


def samples(*tars: Path) -> list[dict[str, Any]]:
    return list(WebDataset([str(tar) for tar in tars], shardshuffle=False))


def files(folder: Path) -> dict[str, str]:
    """Relative path -> hash; of a compressed tar, the hash of what is in it, as zlibs differ."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        data = path.read_bytes()
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        found[str(path.relative_to(folder))] = hashlib.sha256(plain).hexdigest()
    return found


@pytest.fixture(scope="module")
def trained() -> list[dict[str, Any]]:
    return samples(*found(EMOJI / "train", "*.tar"))


@pytest.fixture(scope="module")
def tested() -> dict[str, list[dict[str, Any]]]:
    return {name: samples(EMOJI / "eval" / name / "test" / "0.tar") for name in SETS}


def test_built_twice_the_bytes_are_the_same(tmp_path: Path) -> None:
    for run in ("one", "two"):
        build(names(24), styles(24), tmp_path / run, unseen=4, held_out=9)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    counts = json.loads((tmp_path / "one" / "statistics.json").read_text())
    assert (counts["concepts"], counts["core"], counts["seen"], counts["trained"]) == (25, 24, 20, 21)
    assert counts["trained_drawings"] == 21 * len(TRAIN) - 9
    assert counts["variants"] + counts["variants_left_out"] > 20 * len(TRAIN) - 9
    assert list(json.loads((tmp_path / "one" / "eval" / "sets.json").read_text())) == list(SETS)


def test_a_picture_is_drawn_on_white_and_black_where_the_icon_leaves_the_colour_open() -> None:
    icons = {
        "icons": {"dot": {"body": '<path fill="currentColor" d="M0 0h8v16h-8z"/>'}},
        "height": 16,
        "width": 16,
    }
    pixels = np.frombuffer(render(svg(icons, "dot")), np.uint8).reshape(SIZE, SIZE, 3)
    assert (pixels[:, : SIZE // 2] == 0).all()
    assert (pixels[:, SIZE // 2 :] == 255).all()


def test_an_icons_own_box_comes_before_the_sets() -> None:
    icons = {"icons": {"a": {"body": "", "width": 20, "left": 3}}, "width": 8, "height": 9}
    assert 'viewBox="3 0 20 9"' in svg(icons, "a")


def test_storing_costs_little() -> None:
    pixels = np.full((SIZE, SIZE, 3), 255, np.uint8)
    pixels[16:48, 16:48] = (30, 60, 200)
    assert coding_error(pixels.tobytes(), encode(pixels.tobytes())) < 3


def test_index_counts_and_hashes_fit_the_shards(trained: list[dict[str, Any]]) -> None:
    index = json.loads((EMOJI / "train" / "index.json").read_text())
    for shard in index["shards"]:
        data = (EMOJI / "train" / shard["path"]).read_bytes()
        assert len(data) == shard["bytes"]
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert len(samples(EMOJI / "train" / shard["path"])) == shard["samples"]
    assert len(trained) == sum(shard["samples"] for shard in index["shards"])
    assert len({sample["__key__"] for sample in trained}) == len(trained)


def test_a_training_sample_is_a_concept_with_drawings_of_training_styles(
    trained: list[dict[str, Any]],
) -> None:
    for sample in trained:
        images = {name.removesuffix(".webp") for name in sample if name.endswith(".webp")}
        variants = {name for name in images if "~" in name}
        fields = json.loads(sample["json"])
        assert images
        assert images - variants <= set(TRAIN)
        assert {name.split("~")[0] for name in variants} <= images
        assert {name.split("~")[1] for name in variants} <= {"line", "contrast", "outlined"}
        assert len(fields["captions"]) == CAPTIONS
        assert fields.keys() == {"label", "captions", "group", "tags"}


def test_nothing_kept_back_is_trained_on(
    trained: list[dict[str, Any]], tested: dict[str, list[dict[str, Any]]]
) -> None:
    keys = {sample["__key__"] for sample in trained}
    drawings = {
        (sample["__key__"], name.removesuffix(".webp").split("~")[0])
        for sample in trained
        for name in sample
        if "." in name
    }
    pictures = {sample[name] for sample in trained for name in sample if name.endswith(".webp")}
    assert not keys & {sample["__key__"].rsplit("_", 1)[0] for sample in tested["unseen"]}
    held = {tuple(sample["__key__"].rsplit("_", 1)) for sample in tested["heldout"]}
    assert {style for _, style in held} <= {style for _, style in drawings} and not drawings & held
    assert not pictures & {sample["webp"] for name in ("heldout", "unseen") for sample in tested[name]}
    for name in (*SHIFTS, REDRAWN, "heldout"):
        assert {sample["__key__"].rsplit("_", 1)[0] for sample in tested[name]} <= keys


def test_sets_are_as_described(tested: dict[str, list[dict[str, Any]]]) -> None:
    described = json.loads((EMOJI / "eval" / "sets.json").read_text())
    assert list(described) == list(SETS)
    for name, kept in tested.items():
        classes = (EMOJI / "eval" / name / "classnames.txt").read_text().splitlines()
        assert len(classes) == len(set(classes)) == described[name]["classes"]
        assert len(kept) == described[name]["drawings"]
        for sample in kept:
            fields = json.loads(sample["json"])
            assert classes[int(sample["cls"])] == fields["label"]
            assert sample["__key__"].endswith(f"_{fields['style']}")
            assert fields["caption"]
    assert described["heldout"]["drawings"] == HELD_OUT
    assert described["unseen"]["classes"] == UNSEEN


def test_classes_are_the_same_in_every_set_but_the_unseen() -> None:
    lists = [(EMOJI / "eval" / name / "classnames.txt").read_text() for name in SETS]
    assert len(set(lists[:-1])) == 1
    assert not set(lists[0].splitlines()) & set(lists[-1].splitlines())


def test_templates_have_their_place_holder() -> None:
    for name in SETS:
        lines = (EMOJI / "eval" / name / "zeroshot_classification_templates.txt").read_text().splitlines()
        assert lines
        assert all(line.count("{c}") == 1 for line in lines)


def test_pictures_are_small_and_the_whole_stays_under_25_mb(tested: dict[str, list[dict[str, Any]]]) -> None:
    for kept in tested.values():
        image = Image.open(io.BytesIO(kept[0]["webp"]))
        assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")
    assert sum(path.stat().st_size for path in EMOJI.rglob("*") if path.is_file()) <= 25e6


@pytest.mark.slow
def test_the_pinned_packages_give_what_is_committed(tmp_path: Path) -> None:
    """Fetches with npm what the cache lacks; the same bytes need the same libwebp, which pillow brings."""
    pack(None, str(tmp_path))
    assert files(tmp_path) == files(EMOJI)
