"""Captions: lines of `.txt`, texts of `.json`, and what says nothing once it is cleaned."""

from __future__ import annotations

import json

import pytest

from diptych.data.stream.captions import BadSample, captions_of, field_of, group_of, source_of
from diptych.packing.entries import Entry, LeftOut
from samples import picture

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
