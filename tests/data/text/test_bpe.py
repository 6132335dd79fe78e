"""Vocabularies from files: what is read, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.data.text import bpe
from diptych.data.text.tokenizer import Tokenizer

TEXT = "#version: 0.2\nc a\nca t</w>\ncat</w> s\n"


@pytest.mark.parametrize("name", ["plain.txt", "packed.txt.gz"])
def test_ids_follow_from_the_merges(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(TEXT.encode()) if name.endswith(".gz") else TEXT.encode())
    tokenizer = Tokenizer(context_length=5, vocabulary=tmp_path / name)
    assert (tokenizer.vocab_size, tokenizer.sot, tokenizer.eot) == (517, 515, 516)
    assert tokenizer("Cat cats").tolist() == [[515, 513, 512, 83, 516]]  # cats is ca, t, s</w>
    assert tokenizer.vocabulary.text == TEXT.rstrip()  # open_clip would count an empty last line as a merge
    assert tokenizer.decode(tokenizer("cat")[0]) == "cat"


def test_openais_file_gives_openais_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text(bpe.openai().text, "utf-8")
    read = Tokenizer(vocabulary=tmp_path / "all.txt")
    assert read.vocab_size == Tokenizer.vocab_size == 49408 and (read.sot, read.eot) == (49406, 49407)
    assert read.vocabulary.tokens == bpe.openai().tokens
    assert read("a diptych, “open”").equal(Tokenizer()("a diptych, “open”"))


def test_a_vocabulary_is_given_by_its_text_too() -> None:
    assert Tokenizer(vocabulary=TEXT).vocab_size == 517


def test_more_ids_than_two_bytes_count() -> None:
    symbols = list(bpe.BYTES)
    merges = [f"{left} {right}" for left in symbols for right in symbols]
    tokenizer = Tokenizer(context_length=4, vocabulary="\n".join(["#version: 0.2", *merges, ""]))
    assert tokenizer.vocab_size == 512 + 65536 + 2
    assert tokenizer("ab").tolist() == [[66048, 64, 256 + 65, 66049]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"#version: 0.2\na b c\n", "line 2: 'a b c' is not two symbols"),
        (b"#version: 0.2\na b\nabc d\n", "line 3: 'abc' is neither a byte nor made by an earlier merge"),
        (b"#version: 0.2\n", "holds no merge"),
        (b"", "holds no merge"),
        (b"#version: 0.2\n\xff\xfe a\n", "is damaged or no vocabulary"),
        (gzip.compress(TEXT.encode() * 99)[:40], "is damaged or no vocabulary"),
        (b'{"model": {"type": "BPE"}}', "holds no merge"),
        (gzip.compress(bytes(2**26 + 1), 1), "more than 64 MB"),
    ],
    ids=["three", "unknown", "title", "empty", "bytes", "cut", "json", "bomb"],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(UserError, match=said):
        Tokenizer(vocabulary=tmp_path / "v.txt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt does not exist"):
        Tokenizer(vocabulary=tmp_path / "none.txt")
