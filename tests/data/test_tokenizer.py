"""A learned vocabulary serves the tokenizer, is the same each time, and is reached by its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import corpus

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.data.text.tokenizer import Tokenizer
from diptych.data.tokenizer import learn, main, read_texts
from samples import write_shards

GERMAN = ["Ein Foto von einer Straße.", "Das Foto zeigt eine kleine Straße", "zwei Straßen, ein Straßenschild"] * 3


def test_what_occurs_often_becomes_one_id() -> None:
    tokenizer = Tokenizer(vocabulary=learn(GERMAN, 700).text)
    assert len(tokenizer.encode("Straße")) == 1 < len(Tokenizer().encode("Straße"))
    assert tokenizer.decode(tokenizer.encode("ein kleines Foto, Zebra")) == "ein kleines foto , zebra"


def test_ids_are_as_many_as_asked_for_and_no_two_stand_for_the_same() -> None:
    vocabulary = learn(corpus(1500), 2000)
    assert vocabulary.size == len(set(vocabulary.tokens)) == 2000
    assert vocabulary.eot == 1999 and vocabulary.tokens[-1] == "<|endoftext|>"


def test_the_same_texts_give_the_same_vocabulary() -> None:
    """In another process, too, where Rust's hashes have another seed."""
    code = (
        "from texts import corpus; from diptych.data.tokenizer import learn; import hashlib; "
        "print(hashlib.sha256(learn(corpus(400), 1500).text.encode()).hexdigest())"
    )
    folder = ROOT / "tests/support"
    outputs = {
        subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=20), st.text(max_size=40))
def test_any_texts_give_a_vocabulary_or_a_sentence(texts: list[str], other: str) -> None:
    try:
        vocabulary = learn(texts, 600, at_least=1)
    except UserError as error:
        assert "No two letters" in str(error)
        return
    tokenizer = Tokenizer(context_length=12, vocabulary=vocabulary.text)
    for text in (*texts, other):
        row = tokenizer(text)[0].tolist()
        assert row[0] == tokenizer.sot and row[int(tokenizer(text).argmax())] == tokenizer.eot == max(row)


def test_texts_are_lines_and_captions(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "s", [3, 2])
    (tmp_path / "lines.txt").write_text("ein Foto\nzwei Fotos\n")
    read = list(read_texts([str(tmp_path / "lines.txt"), str(index), str(tmp_path / "s/train-{000000..000001}.tar")]))
    assert [text.strip() for text in read[:2]] == ["ein Foto", "zwei Fotos"]
    assert read[2:7] == read[7:] and read[2] == "a red square, number 0"


def test_a_sample_without_a_caption_is_left_out(tmp_path: Path) -> None:
    def spoil(number: int, sample: dict) -> dict:
        return {key: value for key, value in sample.items() if key != "txt"} if number == 1 else sample

    assert len(list(read_texts([str(write_shards(tmp_path, [3], spoil))]))) == 2


def test_the_command_writes_the_same_file_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(GERMAN))
    for name in ("a.txt.gz", "b.txt.gz"):
        main(["train", str(tmp_path / "lines.txt"), "--out", str(tmp_path / name), "--size", "540"])
    assert "540 ids; train with model.text.vocabulary=" in capsys.readouterr().out
    assert (tmp_path / "a.txt.gz").read_bytes() == (tmp_path / "b.txt.gz").read_bytes()
    assert Tokenizer(vocabulary=tmp_path / "a.txt.gz").vocab_size == 540
    main(["train", str(tmp_path / "lines.txt"), "--out", str(tmp_path / "c.txt")])
    assert "of 49408 asked for: the texts hold no more pairs" in capsys.readouterr().out


def test_the_modules_own_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diptych.data.tokenizer", "train", "none.txt", "--out", str(tmp_path / "v.txt")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.startswith("diptych: none.txt") and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("lines", "arguments", "said"),
    [
        (b"ein Foto\n", ["--size", "514"], "leaves no room for a merge"),
        (b"\n \n", [], "No two letters stand together"),
        (b"\xff\xfe\x00", [], "is not readable as UTF-8 text"),
    ],
    ids=["size", "empty", "bytes"],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: bytes, arguments: list[str], said: str
) -> None:
    (tmp_path / "lines.txt").write_bytes(lines)
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(tmp_path / "lines.txt"), "--out", str(tmp_path / "v.txt"), *arguments])
    assert said in (err := capsys.readouterr().err) and err.count("\n") == 1
    assert not (tmp_path / "v.txt").exists()
