"""Examples and gallery: drawn by seed, in the report's shape, with pictures that are the ones given."""

import base64
import io
import json

import pytest
import torch
from PIL import Image

from diptych.report.gallery import Pictures, draw, encode, examples, gallery, shown_examples
from diptych.report.record import Record

CLASSNAMES = ["red", "green", "blue"]


def colours(name, n=9):
    """Pictures of one colour each, whose feature is that colour and whose label its name; the last is
    labelled wrong."""
    labels = torch.arange(n) % 3
    images = (torch.eye(3)[labels] * 255).to(torch.uint8)[:, :, None, None].expand(n, 3, 8, 8)
    labels = torch.cat([labels[:-1], torch.zeros(1, dtype=torch.int64)])
    keys = [f"{name}/{i}" for i in range(n)]
    features = torch.eye(3)[torch.arange(n) % 3] + 0.01 * torch.arange(n)[:, None]
    return Pictures(name, keys, labels, images, features, CLASSNAMES, torch.eye(3))


def colour_of(data):
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "WEBP" and image.size == (8, 8)
        pixel = torch.tensor(image.convert("RGB").getpixel((4, 4)))
    return CLASSNAMES[int(pixel.argmax())]


def test_draw_is_a_seeded_sample():
    assert draw(100, 10, seed=1) == draw(100, 10, seed=1) != draw(100, 10, seed=2)
    assert len(set(draw(100, 10, seed=1))) == 10 and draw(3, 10, seed=0) == [0, 1, 2]


def test_examples_show_the_picture_its_label_and_the_likeliest_classes():
    found = examples([colours("a"), colours("b")], scale=5.0, per_set=9, seed=3)
    assert json.loads(json.dumps(found)) == found
    assert [row["set"] for row in found["examples"]] == ["a"] * 9 + ["b"] * 9
    for i, row in enumerate(found["examples"][:9]):
        assert row["key"] == f"a/{i}" and row["label"] == ("red" if i == 8 else CLASSNAMES[i % 3])
        names, shares = zip(*row["top"], strict=True)
        assert names[0] == CLASSNAMES[i % 3] == colour_of(row["image"])
        assert sorted(shares, reverse=True) == list(shares) and sum(shares) == pytest.approx(1)


def test_sets_of_one_length_show_different_rows():
    found = examples([colours("a", 60), colours("b", 60)], scale=1.0, per_set=5)["examples"]
    rows = [[row["key"].split("/")[1] for row in found if row["set"] == name] for name in "ab"]
    assert rows[0] != rows[1]


def test_gallery_ranks_over_all_sets_and_marks_by_class():
    texts, concepts = ["blue!", "red!"], ["blue", "red"]
    found = gallery([colours("a"), colours("b", 4)], texts, concepts, torch.eye(3)[[2, 0]], k=5)
    assert found["sets"] == ["a", "b"] and [query["text"] for query in found["queries"]] == texts
    blue = found["queries"][0]["hits"]
    # Four pictures are blue: 2, 5 and 8 of a, 2 of b; 8 of a is labelled red.
    assert [hit["correct"] for hit in blue] == [True, True, True, False, False]
    assert {hit["set"] for hit in blue[:3]} == {"a", "b"}
    assert all(colour_of(hit["image"]) == "blue" for hit in blue[:4])
    assert [hit["score"] for hit in blue] == sorted((hit["score"] for hit in blue), reverse=True)
    assert json.loads(json.dumps(found)) == found


def test_k_may_exceed_the_pictures():
    assert len(gallery([colours("a", 3)], ["x"], ["red"], torch.ones(1, 3), k=50)["queries"][0]["hits"]) == 3


def test_encode_keeps_orientation():
    image = torch.zeros(3, 4, 8, dtype=torch.uint8)
    image[0, :, 4:] = 255  # the right half is red
    with Image.open(io.BytesIO(base64.b64decode(encode(image)))) as opened:
        assert opened.size == (8, 4)
        assert opened.convert("RGB").getpixel((7, 0))[0] > 128 > opened.convert("RGB").getpixel((0, 3))[0]


def test_a_card_says_where_the_truth_is():
    top = [["a", 0.5], ["b", 0.3], ["c", 0.1]]
    record = Record("x", "", examples={"examples": [{"set": "s", "label": t, "top": top} for t in "abcd"]})
    found = shown_examples(record)
    verdicts = [card["verdict"] for card in found["sets"][0][1]]
    assert verdicts == ["right", "wrong, truth 2nd", "wrong, truth 3rd", "wrong, not listed"]
    assert found["right"] == 1 and found["n"] == 4
