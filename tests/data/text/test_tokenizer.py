import json
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from texts import BLOCK, CORPUS, corpus, digest

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.data.text import bpe
from diptych.data.text.tokenizer import Tokenizer

GOLDEN = json.loads((ROOT / "tests/golden/tokenizer.json").read_text())
TOKENIZER = Tokenizer()
TEXTS = st.text(st.characters(codec=None), max_size=200)  # lone surrogates too


@pytest.mark.parametrize(("text", "ids"), GOLDEN["pairs"])
def test_ids_are_openais(text: str, ids: list[int]) -> None:
    assert TOKENIZER.encode(text) == ids
    row = [49406, *ids[:75], 49407]
    assert TOKENIZER(text)[0].tolist() == row + [0] * (77 - len(row))


def blocks(count: int) -> list[str]:
    ids = [TOKENIZER.encode(text) for text in corpus(count * BLOCK)]
    return [digest(ids[start : start + BLOCK]) for start in range(0, len(ids), BLOCK)]


def test_ids_of_texts_of_every_kind_are_openais() -> None:
    assert blocks(5) == GOLDEN["blocks"][:5]


@pytest.mark.slow
def test_ids_of_a_hundred_thousand_texts_are_openais() -> None:
    assert len(set(corpus(CORPUS))) > 100_000
    assert blocks(CORPUS // BLOCK) == GOLDEN["blocks"]


def test_letters_newer_than_other_engines_tables_are_letters() -> None:
    """U+1C89 and U+A7DA came with Unicode 16: one word with the letters beside them, as OpenAI's engine has it."""
    assert len(bpe.pieces("a\u1c89\ua7dab")) == 1


def test_rows_in_order_with_int64_and_the_context_asked_for() -> None:
    tokens = Tokenizer(context_length=6)(["a cat", "", "one two three four five six"])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [
        [49406, 320, 2368, 49407, 0, 0],
        [49406, 49407, 0, 0, 0, 0],
        [49406, 637, 1237, 2097, 2721, 49407],
    ]
    assert Tokenizer(context_length=6)([]).shape == (0, 6)


def test_specials_written_out_count_only_where_a_word_could_start() -> None:
    end = "<|endoftext|>"
    assert TOKENIZER.encode(f"cat{end}{end} {end.upper()}") == [2368, 49407, 49407, 49407]
    assert 49407 not in TOKENIZER.encode(f"!{end}")


def test_texts_too_long_to_be_cached_give_the_same() -> None:
    short = "the cat's tail is long " * 8  # below the limit of a cached caption
    assert TOKENIZER.encode(short * 3) == TOKENIZER.encode(short) * 3
    assert torch.equal(TOKENIZER(short * 3)[0, :76], Tokenizer(300)(short * 3)[0, :76])
    assert TOKENIZER.decode(TOKENIZER.encode("ab" * 5000)) == "ab" * 5000


@given(TEXTS)
def test_any_text_gives_a_row_that_ends(text: str) -> None:
    row = TOKENIZER(text)[0].tolist()
    end = min(1 + len(TOKENIZER.encode(text)), 76)
    assert len(row) == 77 and row[0] == 49406 and row[end] == 49407 and not any(row[end + 1 :])
    assert all(0 <= number < 49408 for number in row)


@given(st.lists(st.from_regex(r"[a-z]{1,40}|[0-9]|[.!?,]", fullmatch=True), max_size=20))
def test_simple_text_comes_back(words: list[str]) -> None:
    text = " ".join(words)
    assert TOKENIZER.decode([TOKENIZER.sot, *TOKENIZER.encode(text), TOKENIZER.eot, 0, 0]) == text


@given(TEXTS, TEXTS)
def test_words_are_encoded_one_by_one(left: str, right: str) -> None:
    left, right = (text.encode("ascii", "ignore").decode().replace("&", "+") for text in (left, right))
    assert TOKENIZER.encode(f"{left} {right}") == TOKENIZER.encode(left) + TOKENIZER.encode(right)


def test_a_tokenizer_can_be_sent_to_a_worker() -> None:
    sent = pickle.loads(pickle.dumps(Tokenizer(context_length=9)))
    assert torch.equal(sent("a dog"), Tokenizer(context_length=9)("a dog"))


def test_the_vocabulary_is_read_late() -> None:
    code = (
        "from diptych.data.text import bpe, tokenizer\n"
        "made = tokenizer.Tokenizer(); assert bpe.openai.cache_info().currsize == 0\n"
        "made('a cat'); assert bpe.openai.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kept_words_are_bounded_and_stay_right() -> None:
    words = bpe.openai().words
    fresh = bpe.openai().encode("zyzzyva").tolist()  # worked out anew
    for number in range(bpe.CACHED):
        words[f"made{number}"] = b""
    assert TOKENIZER.encode("zyzzyva") == TOKENIZER.encode("zyzzyva") == fresh
    assert list(words) == ["zyzzyva"]
    TOKENIZER.encode("w" * (bpe.WORD_CHARACTERS + 1))
    assert "w" * (bpe.WORD_CHARACTERS + 1) not in words


def test_a_context_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="context_length of 1"):
        Tokenizer(context_length=1)
