"""Lists the n-grams of captions: the vocabulary of Visual N-Grams (Li et al. 2017, section 3.1).

python -m diptych.data.ngrams data/emoji/train/core.json --out data/emoji-ngrams.txt
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.files import write
from diptych.base.terminal import say
from diptych.data.stream.index import open_index
from diptych.data.stream.pairs import captions_of
from diptych.data.stream.shards import read_whole
from diptych.data.text.cleaning import clean_words
from diptych.data.text.tokenizer import Tokenizer

LONGEST = 3


def mine(samples: Iterable[Iterable[str]], least: int) -> list[str]:
    """All n-grams of up to three words that occur in at least `least` samples, the most frequent first, then in
    alphabetical order. Of n-grams with the same tokens ("8 ball", "8ball") the most frequent one stays.

    samples: the captions of each; an n-gram counts once a sample, however many of its captions have it
    """
    counts: Counter[str] = Counter()
    for captions in samples:
        counts.update({ngram for caption in captions for ngram in ngrams(caption)})
    often = sorted((ngram for ngram, n in counts.items() if n >= least), key=lambda ngram: (-counts[ngram], ngram))
    tokens = Tokenizer()(often).tolist() if often else []
    return list({tuple(row): ngram for row, ngram in zip(tokens[::-1], often[::-1], strict=True)}.values())[::-1]


def ngrams(caption: str) -> set[str]:
    """The n-grams of a caption, cleaned and lower-cased as the tokenizer does it. None crosses punctuation."""
    found: set[str] = set()
    for part in _phrases(caption):
        for size in range(1, LONGEST + 1):
            found.update(" ".join(part[start : start + size]) for start in range(len(part) - size + 1))
    return found


def _phrases(caption: str) -> list[list[str]]:
    phrases: list[list[str]] = [[]]
    for word in clean_words(caption):
        bare = word.strip(".,;:!?()\"'“”")
        if bare:
            phrases[-1].append(bare)
        if word[-1:] != bare[-1:]:
            phrases.append([])
    return phrases


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the n-grams of captions, one a line.")
    parser.add_argument("shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--least", type=int, default=1, help="samples that an n-gram must occur in")
    args = parser.parse_args()
    try:
        found = mine((captions_of(sample) for sample in read_whole(open_index(args.shards))), args.least)
        write(args.out, "\n".join(found) + "\n")
    except UserError as error:
        sys.exit(f"diptych: {error}")
    say(f"{len(found):,} n-grams: {args.out}")


if __name__ == "__main__":
    main()
