"""OpenAI's tokenizer: lower-cased byte-level BPE of 49,408 ids (CLIP paper, section 2.4), or of another vocabulary.

Text is cleaned first (broken encodings, HTML entities, white space, case). No token crosses white space, so the ids
of a caption are those of its words, one after the other, and the ids of each word are cached.

    python -m diptych.data.tokenizer train captions.txt --out vocabulary.txt --size 16384
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.data.text import bpe
from diptych.data.text.cleaning import clean_words

CACHED, CAPTION_CHARACTERS = (
    2**16,
    256,
)  # captions in the cache, and their largest length: workers live for days


class Tokenizer:
    """Captions -> int64 ids [N, context_length]: [SOS], the words, [EOS], zeros.

    vocabulary: a file in CLIP's merges format, or its text; None for OpenAI's, which gives OpenAI's own ids

    A caption that is too long loses tokens at its end and keeps [EOS]. Raises UserError for a context that has no
    room for [SOS] and [EOS], and for a file that is no vocabulary.
    """

    vocab_size = bpe.OPENAI_MERGES + bpe.BASE
    sot = vocab_size - 2
    eot = vocab_size - 1  # the highest id, so that text towers find it with argmax

    def __init__(self, context_length: int = 77, vocabulary: str | Path | None = None) -> None:
        if context_length < 2:
            raise UserError(
                f"A context_length of {context_length} has no room for [SOS] and [EOS]: choose at least 2."
            )
        self.context_length = context_length
        self._vocabulary = None if vocabulary is None else bpe.read(vocabulary)
        if self._vocabulary:
            self.vocab_size, self.sot, self.eot = self._vocabulary.size, self._vocabulary.sot, self._vocabulary.eot
        self._cached_body = lru_cache(CACHED)(self._body)

    @property
    def vocabulary(self) -> bpe.Vocabulary:
        """What the ids mean."""
        return self._vocabulary or bpe.openai()

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """One caption or several -> ids, int64 [N, context_length]."""
        texts = [texts] if isinstance(texts, str) else texts
        start, end = (array(self.vocabulary.typecode, [special]).tobytes() for special in (self.sot, self.eot))
        room, width = (self.context_length - 2) * len(start), self.context_length * len(start)
        rows = b"".join([(start + self._ids(text)[:room] + end).ljust(width, b"\0") for text in texts])
        ids = np.frombuffer(rows, dtype=self.vocabulary.typecode).astype(np.int64)
        return torch.from_numpy(ids.reshape(len(texts), self.context_length))

    def encode(self, text: str) -> list[int]:
        """All ids of a text, without [SOS], [EOS] and a limit to their number."""
        return array(self.vocabulary.typecode, self._body(text)).tolist()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids up to the first [EOS], in lower case and with spaces around punctuation."""
        until_end = takewhile(lambda number: number != self.eot, map(int, ids))
        return self.vocabulary.decode(number for number in until_end if number != self.sot)

    def words(self, tokens: Tensor) -> Iterator[tuple[int, ...]]:
        """The ids of each word in rows [N, L] of this tokenizer. A word that the context cut is left out."""
        ends = self.vocabulary.ends
        for row in tokens.tolist():
            first = 1
            for place in range(1, row.index(self.eot)):
                if ends[row[place]]:
                    yield tuple(row[first : place + 1])
                    first = place + 1

    def _ids(self, text: str) -> bytes:
        # ASCII text needs no cleaning: it is encoded faster than it is found in a large cache.
        short = len(text) <= CAPTION_CHARACTERS and not text.isascii()
        return self._cached_body(text) if short else self._body(text)

    def _body(self, text: str) -> bytes:
        """All ids of a caption, as bytes."""
        return b"".join(map(self.vocabulary.words.__getitem__, clean_words(text)))

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[int, str | None]]:
        # Without the caches, which each worker fills itself, and with the vocabulary's text instead of its file.
        return Tokenizer, (self.context_length, self._vocabulary.text if self._vocabulary else None)
