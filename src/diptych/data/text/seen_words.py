"""The words of the captions that a model was trained on, which its checkpoint records.

Training never changed the embedding of a word that is in no caption. A prompt with such a word lowers the accuracy,
and nothing else would show why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diptych.base.terminal import counted
from diptych.data.text.tokenizer import Tokenizer

LETTERS = 2**17  # of all words of a record: some 15,000 words, small beside a checkpoint


def record_of(counts: Counter[str], captions: int) -> dict[str, Any]:
    """What a checkpoint records: the number of captions, of distinct words, and the words in alphabetical order,
    separated by spaces; only the most frequent ones if there are more than LETTERS allow."""
    kept, letters = [], 0
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        letters += len(word) + 1
        if letters > LETTERS:
            break
        kept.append(word)
    return {"captions": captions, "distinct": len(counts), "words": " ".join(sorted(kept))}


@dataclass(frozen=True)
class SeenWords:
    """words: the recorded ones; captions: the number of captions they come from; whole: whether no word is missing"""

    words: frozenset[str]
    captions: int
    whole: bool

    def unseen(self, tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
        """The words of the texts that are not recorded, each once and in their order, without punctuation."""
        tokens = tokenizer([text or " " for text in texts])
        found = dict.fromkeys(tokenizer.decode(ids) for ids in tokenizer.words(tokens))
        return [word for word in found if any(map(str.isalnum, word)) and word not in self.words]

    def where(self) -> str:
        """For messages: where a word is missing that is not recorded."""
        captions = f"the first {counted(self.captions, 'caption')} that the model was trained on"
        return (
            f"in none of {captions}"
            if self.whole
            else f"not among the {len(self.words):,} most frequent of {captions}"
        )


def read_record(describe: Mapping[str, Any]) -> SeenWords | None:
    """The record in a checkpoint's description, which may hold anything; None if there is no valid one."""
    told = describe.get("words")
    if not isinstance(told, Mapping):
        return None
    words, captions, distinct = (told.get(key) for key in ("words", "captions", "distinct"))
    if not isinstance(words, str) or not words or type(captions) is not int or type(distinct) is not int:
        return None
    found = frozenset(words.split(" "))
    return SeenWords(found, captions, distinct <= len(found))
