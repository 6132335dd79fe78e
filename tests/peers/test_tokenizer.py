"""Ids beside the real peer's, text by text. `make peers` installs it."""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import simple_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import CORPUS, corpus

from diptych.data.text.tokenizer import Tokenizer
from diptych.data.tokenizer import learn, write

pytestmark = pytest.mark.slow
OURS = Tokenizer()


@pytest.fixture(scope="module")
def site(peers_python: Path) -> Path:
    """The packages of the peers' environment."""
    found = simple_tokenizer.installed()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def peer(site: Path) -> Any:
    return simple_tokenizer.load(site)()


def test_the_corpus(peer: Any) -> None:
    texts = corpus(CORPUS)
    assert len(set(texts)) > 100_000
    wrong = [text for text in texts if OURS.encode(text) != peer.encode(text)]
    assert wrong == []


def test_every_character_alone_and_among_others(peer: Any) -> None:
    """All of Unicode, also what no version of it names yet."""
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    texts = ["".join(characters[start : start + 64]) for start in range(0, len(characters), 64)]
    texts += [" ".join(characters[start : start + 32]) for start in range(0, len(characters), 32)]
    texts += [f"a{character}b 1{character}.{character}" for character in characters[:0x3100]]
    wrong = [text for text in texts if OURS.encode(text) != peer.encode(text)]
    assert wrong == []


@settings(max_examples=3000, deadline=None)
@given(st.text(max_size=60))
def test_any_text(peer: Any, text: str) -> None:
    # What [SOS] and [EOS] are called differs: open_clip says <start_of_text>, OpenAI <|startoftext|>.
    if not re.search(r"<(start_of_text|end_of_text|\|startoftext\||\|endoftext\|)>", peer.clean_fn(text)):
        assert OURS.encode(text) == peer.encode(text)


def test_rows(peer: Any) -> None:
    texts = corpus(3000, seed=3)
    assert OURS(texts).equal(peer(texts))


def test_a_learned_vocabulary_reads_alike_there(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "learned.txt.gz"
    write(learn(corpus(3000, seed=1), 3000), file)
    assert gzip.decompress(file.read_bytes())
    peer, ours = simple_tokenizer.load(site)(bpe_path=str(file)), Tokenizer(vocabulary=file)
    assert (peer.sot_token_id, peer.eot_token_id, peer.vocab_size) == (ours.sot, ours.eot, ours.vocab_size)
    texts = corpus(3000, seed=2)
    assert ours(texts).equal(peer(texts))
