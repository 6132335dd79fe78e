"""OpenAI's tokenizer: lower-cased byte-level BPE of 49,408 ids (CLIP paper, section 2.4).

Text is cleaned first (broken encodings, HTML entities, white space, case). No pattern of the splitter crosses
white space, so a caption's ids are its words' ids one after the other, and a word is worked out once.
"""

from __future__ import annotations

import gzip
import html
from array import array
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import ftfy
import numpy as np
import torch
from tokenizers import Regex
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as Pipeline
from torch import Tensor

from diptych.errors import UserError

VOCABULARY = Path(__file__).parent / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # as many of the file's merges as OpenAI's ids count
SPECIALS = {"<|startoftext|>": MERGES + 512, "<|endoftext|>": MERGES + 513}
# The specials, English clitics, letters, single digits, whatever else: OpenAI's rule.
WORDS = r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

# Caches are bounded in entries and in the length of what they hold: a worker lives for days.
CACHED, CAPTION_CHARACTERS, WORD_CHARACTERS = 2**16, 256, 32


class _Vocabulary(NamedTuple):
    tokens: list[str]
    bpe: BPE
    split: PreTokenizer
    bytes_of: dict[str, int]  # the character that stands for a byte in a token -> the byte


@cache
def _vocabulary() -> _Vocabulary:
    """The vocabulary, read when the first text is met and once per process."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    bytes_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode().splitlines()[1 : MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    tokens = [*bytes_of, *(f"{symbol}</w>" for symbol in bytes_of), *(a + b for a, b in merges), *SPECIALS]
    bpe = BPE({token: number for number, token in enumerate(tokens)}, merges, end_of_word_suffix="</w>")
    split = Split(Regex(WORDS), behavior="removed", invert=True)
    return _Vocabulary(tokens, bpe, Pipeline([split, ByteLevel(add_prefix_space=False, use_regex=False)]), bytes_of)


class Tokenizer:
    """Captions -> int64 ids [N, context_length]: [SOS], the words, [EOS], zeros.

    Ids equal OpenAI's. A caption that is too long loses words at its end and keeps [EOS]. Raises UserError
    for a context that has no room for [SOS] and [EOS].
    """

    sot = SPECIALS["<|startoftext|>"]
    eot = SPECIALS["<|endoftext|>"]
    vocab_size = MERGES + 514

    def __init__(self, context_length: int = 77) -> None:
        if context_length < 2:
            raise UserError(
                f"A context_length of {context_length} has no room for [SOS] and [EOS]: choose at least 2."
            )
        self.context_length = context_length
        self._cached_row = lru_cache(CACHED)(self._row)

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """One caption or several -> int64 [N, context_length]."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = b"".join(
            self._cached_row(text) if len(text) <= CAPTION_CHARACTERS else self._row(text) for text in texts
        )
        ids = np.frombuffer(rows, dtype=np.uint16).astype(np.int64)
        return torch.from_numpy(ids.reshape(len(texts), self.context_length))

    def encode(self, text: str) -> list[int]:
        """The ids of a text's words, without [SOS] and [EOS], however many there are."""
        # ftfy and unescape leave printable ASCII without `&` as it is, and cost more than all the rest.
        if not (text.isascii() and text.isprintable() and "&" not in text):
            text = html.unescape(html.unescape(ftfy.fix_text(text)))
        ids: list[int] = []
        for word in text.lower().split():
            ids += _cached_word(word) if len(word) <= WORD_CHARACTERS else _word(word)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for, up to the first [EOS]; words and punctuation apart, all lower case."""
        vocabulary, symbols = _vocabulary(), ""
        for number in ids:
            if number == self.eot:
                break
            if number != self.sot:
                symbols += vocabulary.tokens[number].replace("</w>", " ")
        raw = bytes(vocabulary.bytes_of.get(symbol, 0x20) for symbol in symbols)
        return raw.decode("utf-8", errors="replace").strip()

    def _row(self, text: str) -> bytes:
        """One caption's row as bytes (uint16): cheap to keep and to join."""
        ids = [self.sot, *self.encode(text)[: self.context_length - 2], self.eot]
        return array("H", ids).tobytes().ljust(2 * self.context_length, b"\0")

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[int]]:
        return Tokenizer, (self.context_length,)  # workers fill their own caches


def _word(word: str) -> tuple[int, ...]:
    """The ids of a clean run of characters without white space in it."""
    vocabulary = _vocabulary()
    ids: list[int] = []
    for piece, _ in vocabulary.split.pre_tokenize_str(word):
        if piece in SPECIALS:
            ids.append(SPECIALS[piece])
        else:
            ids += [token.id for token in vocabulary.bpe.tokenize(piece)]
    return tuple(ids)


_cached_word = lru_cache(CACHED)(_word)
