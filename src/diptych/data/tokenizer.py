"""Learns a vocabulary for another language or domain, with the cleaning and splitting of our tokenizer."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Trainable
from tokenizers import models, pre_tokenizers, trainers

from diptych.base import files
from diptych.base.errors import UserError
from diptych.base.terminal import say, to_type
from diptych.data.stream.index import open_index
from diptych.data.stream.pairs import BadSample, captions_of
from diptych.data.stream.shards import read_whole
from diptych.data.text import bpe
from diptych.data.text.cleaning import clean_words

SHARDS = (".tar", ".tgz", ".tar.gz", ".json")
SPARE = 256  # extra merges to learn, because some make a token that another merge makes too


def learn(texts: Iterable[str], size: int, at_least: int = 2) -> bpe.Vocabulary:
    """A vocabulary of `size` ids, or fewer if fewer pairs of symbols occur `at_least` times in the texts.

    The same texts give the same vocabulary. Raises UserError for a size that has no room for a merge, and for texts
    that give no merge.
    """
    if size <= bpe.BASE:
        raise UserError(f"--size {size} leaves no room for a merge: give more than {bpe.BASE}.")
    trainer = trainers.BpeTrainer(
        vocab_size=size + SPARE,
        min_frequency=at_least,
        show_progress=False,
        # Given here: the trainer would number them in an order that differs from run to run and decides ties.
        special_tokens=[*bpe.BYTES, *(f"{symbol}</w>" for symbol in bpe.BYTES)],
        end_of_word_suffix="</w>",
    )
    trained = Trainable(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trained.train_from_iterator(_pieces(texts), trainer)
    made: dict[str, tuple[str, str]] = {}  # two merges may make the same token from other halves; an id is for one
    for left, right in json.loads(trained.to_str())["model"]["merges"]:
        made.setdefault(left + right, (left, right))
    merges = list(made.values())[: size - bpe.BASE]
    if not merges:
        raise UserError(f"No two letters stand together {at_least} times in these texts: give more texts.")
    return bpe.Vocabulary(merges)


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield " ".join(piece for word in clean_words(text) for piece in bpe.pieces(word) if piece not in bpe.SPECIALS)


def read_texts(sources: Sequence[str]) -> Iterator[str]:
    """The lines of text files, and the captions of shards (an index, tars, a brace pattern of tars).

    Raises UserError for a source that can't be read.
    """
    for source in sources:
        if source.endswith(SHARDS):
            yield from _captions(source)
            continue
        try:
            opened = gzip.open if source.endswith(".gz") else open
            with opened(source, "rt", encoding="utf-8-sig") as lines:
                yield from lines
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise UserError(
                f"{source} is not readable as UTF-8 text ({error}): give text files or shards."
            ) from error


def _captions(shards: str) -> Iterator[str]:
    for sample in read_whole(open_index(shards)):
        try:
            yield from captions_of(sample)
        except BadSample:
            continue  # training counts and names it


def write(vocabulary: bpe.Vocabulary, out: Path) -> None:
    """In CLIP's merges format, with gzip if the name ends in .gz. The same vocabulary gives the same bytes."""
    data = vocabulary.text.encode()
    files.write(out, gzip.compress(data, mtime=0) if out.suffix == ".gz" else data)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m diptych.data.tokenizer train SOURCE… --out FILE`. Mistakes end in one sentence and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m diptych.data.tokenizer", description=__doc__)
    train = parser.add_subparsers(required=True, metavar="train").add_parser("train", help=__doc__)
    train.add_argument(
        "sources", nargs="+", help="text files, one caption a line, or shards: index.json, 'x-{00..07}.tar'"
    )
    train.add_argument("--out", required=True, help="the vocabulary's file, in CLIP's merges format, gzip for .gz")
    train.add_argument(
        "--size", type=int, default=49408, help="ids, [SOS] and [EOS] among them (default %(default)s)"
    )
    train.add_argument("--at-least", type=int, default=2, help="how often a pair must occur (default %(default)s)")
    given = parser.parse_args(arguments)
    try:
        vocabulary = learn(read_texts(given.sources), given.size, given.at_least)
        write(vocabulary, Path(given.out))
    except UserError as error:
        say(f"diptych: {error}", file=sys.stderr)
        sys.exit(2)
    fewer = "" if vocabulary.size == given.size else f", of {given.size} asked for: the texts hold no more pairs"
    say(f"{given.out}: {vocabulary.size} ids{fewer}; train with {to_type('model.text.vocabulary', given.out)}")


if __name__ == "__main__":
    main()
