"""The words of the captions that a model was trained on, as its checkpoint says them.

A word that a text tower never read has an embedding that no training shaped: a prompt with one costs accuracy, and
nothing else would show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diptych.base.terminal import counted
from diptych.data.text.tokenizer import Tokenizer

LETTERS = 2**17  # of all words of a record: some 15,000, which a checkpoint carries at no cost


def record_of(counts: Counter[str], captions: int) -> dict[str, Any]:
    """What a checkpoint says: the words in the order of letters, separated by a blank, of a large number the most
    frequent; how many different there were, and in how many captions."""
    kept, letters = [], 0
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        letters += len(word) + 1
        if letters > LETTERS:
            break
        kept.append(word)
    return {"captions": captions, "distinct": len(counts), "words": " ".join(sorted(kept))}


@dataclass(frozen=True)
class SeenWords:
    """words: those on record; captions: how many captions they are of; whole: whether they are all that these have"""

    words: frozenset[str]
    captions: int
    whole: bool

    def unseen(self, tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
        """The words of the texts that are not on record, in their order, each once; no punctuation."""
        tokens = tokenizer([text or " " for text in texts])
        found = dict.fromkeys(tokenizer.decode(ids) for ids in tokenizer.words(tokens))
        return [word for word in found if any(map(str.isalnum, word)) and word not in self.words]

    def where(self) -> str:
        """What is said of a word that is not on record."""
        captions = f"the first {counted(self.captions, 'caption')} that the model was trained on"
        return (
            f"in none of {captions}"
            if self.whole
            else f"not among the {len(self.words):,} most frequent of {captions}"
        )


def read_record(describe: Mapping[str, Any]) -> SeenWords | None:
    """From what a checkpoint says of itself, which is not to be trusted; None where it says nothing."""
    told = describe.get("words")
    if not isinstance(told, Mapping):
        return None
    words, captions, distinct = (told.get(key) for key in ("words", "captions", "distinct"))
    if not isinstance(words, str) or not words or type(captions) is not int or type(distinct) is not int:
        return None
    found = frozenset(words.split(" "))
    return SeenWords(found, captions, distinct <= len(found))
