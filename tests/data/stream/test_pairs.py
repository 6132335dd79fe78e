"""Pairs: captions (lines of `.txt`, texts of `.json`, what is blank once cleaned) and groups, through workers too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diptych.data.pixels.image import TrainImage
from diptych.data.stream.index import open_index
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import BadSample, Pairs, captions_of, field_of, group_of, source_of
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream
from diptych.packing.entries import Entry, LeftOut
from samples import picture, write_shards


def letters(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[ord(c) for c in text[:24].ljust(24)] for text in texts])


@pytest.mark.parametrize(("left", "right"), [("cat", "cat"), (7, 7), (["a", 1], ["a", 1]), ({"a": 1}, {"a": 1})])
def test_equal_values_are_one_group(left: object, right: object) -> None:
    numbers = [group_of({"json": json.dumps({"concept": value}).encode()}, "concept") for value in (left, right, "7")]
    assert numbers[0] == numbers[1] != numbers[2]
    assert -(2**63) <= numbers[0] < 2**63


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b'{"concept": null}', b"\xff"])
def test_a_sample_without_its_group_is_bad(data: bytes) -> None:
    with pytest.raises(BadSample, match="json"):
        group_of({"json": data}, "concept")


@pytest.mark.parametrize("workers", [0, 2])
def test_groups_stand_in_the_batch(tmp_path: Path, workers: int) -> None:
    def grouped(number: int, sample: dict) -> dict:
        if number == 5:
            return sample
        return sample | {"json": json.dumps({"colour": number % 4}).encode()}

    index = open_index(str(write_shards(tmp_path, [10, 6], grouped)))
    stream = Stream(
        Order(index, seed=1, epoch=0, batch_size=8, streams=2),
        Pairs(TrainImage(24), letters, "colour"),
        start=0,
        stop=2,
        place=Place(),
        memory=0,
    )
    steps = Steps(stream, workers, max_bad=0.5)
    known = {colour: group_of({"json": json.dumps({"colour": colour}).encode()}, "colour") for colour in range(4)}
    for batch in steps:
        assert batch.groups is not None
        numbers = [int(key.rsplit("/", 1)[1]) for key in batch.keys]
        assert batch.groups.tolist() == [known[number % 4] for number in numbers]
        assert batch.to("cpu").groups is not None
    assert steps.skipped == {"no .json that names the sample's group": {"train-000000.tar": 1}}


DEEP = b'{"caption": ' + b"[" * 100_000


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"txt": b"\xef\xbb\xbfa dog\r\n\r\n a cat "}, ("a dog", "a cat")),
        ({"txt": "a\u2028b\x0bc\x0cd\x1ce\x85f".encode()}, ("a\u2028b\x0bc\x0cd\x1ce\x85f",)),
        ({"txt": "\u200b\nx".encode()}, ("x",)),
        ({"txt": b"", "json": b'{"caption": "x"}'}, ("x",)),
        ({"txt": b"\xef\xbb\xbf", "json": b'{"captions": ["x"]}'}, ("x",)),
        ({"txt": b"a", "json": b"{"}, ("a",)),
        ({"json": b'{"caption": ["a", "b"]}'}, ("a", "b")),
        ({"json": b'{"captions": "a"}'}, ("a",)),
        ({"json": b'{"captions": [], "caption": "a"}'}, ("a",)),
        ({"json": b'{"captions": ["", null], "caption": "a"}'}, ("a",)),
        ({"json": b'\xef\xbb\xbf{"caption": "a"}'}, ("a",)),
        ({"json": b'{"caption": "a", "n": NaN}'}, ("a",)),
        ({"json": b'{"caption": "\\ud800 a"}'}, ("\ufffd a",)),
        ({"json": b'{"caption": "\\ud83d\\ude00"}'}, ("😀",)),
        ({"txt": "👨‍👩‍👧".encode()}, ("👨‍👩‍👧",)),
        ({"txt": "犬".encode()}, ("犬",)),
        ({"txt": b"?!"}, ("?!",)),
        ({"txt": b"&amp;"}, ("&amp;",)),
    ],
)
def test_what_is_a_caption(given: dict[str, bytes], expected: tuple[str, ...]) -> None:
    assert captions_of(given) == expected
    assert all(text.encode() for text in expected)


NOTHING = [
    "",
    " \n",
    "\ufeff",
    "\ufeff\n\ufeff",
    "\u200b",
    "\u2060\u00ad",
    "&nbsp;",
    "&#8203;\n&#160;",
    "\x00\x01",
    "\u3164",
    "\u2800",
]


@pytest.mark.parametrize("text", NOTHING, ids=ascii)
def test_what_cleans_to_nothing_is_an_empty_caption(text: str) -> None:
    for given in ({"txt": text.encode()}, {"json": json.dumps({"caption": text}).encode()}):
        with pytest.raises(BadSample, match="empty caption"):
            captions_of(given)


@pytest.mark.parametrize("text", NOTHING, ids=ascii)
def test_packing_leaves_it_out(tmp_path, text: str) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    with pytest.raises(LeftOut, match="empty caption"):
        Entry("a", str(tmp_path / "a.png"), (text,)).sample("000")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"json": b'{"caption": 5}'}, "caption in its .json is a number, not text"),
        ({"json": b'{"caption": null}'}, "caption in its .json is null, not text"),
        ({"json": b'{"caption": true}'}, "caption in its .json is true, not text"),
        ({"json": b'{"captions": {"a": "b"}}'}, "captions in its .json is an object, not text"),
        ({"json": b'{"captions": []}'}, "captions in its .json is an empty list"),
        ({"json": b'{"captions": [5, null]}'}, "captions in its .json is a list without text"),
        ({"json": b'{"captions": [5, " "]}'}, "empty caption"),
        ({"json": b'{"n": 5}'}, "no caption: neither caption nor captions in its .json"),
        ({"json": b"[1]"}, ".json holds a list, not an object"),
        ({"txt": b"", "json": b'{"caption": 5}'}, "caption in its .json is a number, not text"),
        ({"txt": b"", "json": b'{"n": 5}'}, "empty caption"),
    ],
)
def test_the_reason_is_what_the_file_holds(given: dict[str, bytes], reason: str) -> None:
    with pytest.raises(BadSample) as raised:
        captions_of(given)
    assert str(raised.value) == reason


def test_a_field_of_another_kind_is_no_missing_one() -> None:
    for value, reason in (("5", "caption in its .json is a number, not text"), ('" "', "empty caption")):
        with pytest.raises(BadSample, match=reason):
            field_of({"json": f'{{"caption": {value}}}'.encode()}, "caption")
    with pytest.raises(BadSample, match=r"no caption in its \.json, which data\.captions takes"):
        field_of({"json": b"{}"}, "caption")


@pytest.mark.parametrize(
    "data", [DEEP, b"[1]", b"\xff", b'{"caption": "x", "n": ' + b"9" * 5000 + b"}", b"null", b"[" * 900 + b"]" * 900]
)
def test_json_that_is_none_is_a_bad_sample(data: bytes) -> None:
    """A RecursionError would end the run."""
    for ask in (captions_of, lambda sample: field_of(sample, "caption"), lambda sample: group_of(sample, "caption")):
        with pytest.raises(BadSample):
            ask({"json": data})


def test_a_group_that_is_nested_as_deep_as_can_be_read() -> None:
    assert isinstance(group_of({"json": b'{"g": ' + b"[" * 50 + b"]" * 50 + b"}"}, "g"), int)
    with pytest.raises(BadSample, match="group"):
        group_of({"json": b'{"g": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"}, "g")


def test_the_source_of_a_packed_sample() -> None:
    held = {b'{"source": "a/b.png"}': "a/b.png", b'{"source": 3}': "", b"[]": "", b"{": ""}
    assert {data: source_of({"json": data}) for data in held} == held and source_of({}) == ""
    assert "secret" not in source_of({"json": b'{"source": "https://me:secret@a.org/1.png"}'})
