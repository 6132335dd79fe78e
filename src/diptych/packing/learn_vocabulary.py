"""Learns a vocabulary for another language or domain, by the rules that the tokenizer then follows."""

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
from diptych.data.stream.captions import BadSample, captions_of
from diptych.data.stream.index import open_index
from diptych.data.stream.shards import read_whole
from diptych.data.text import bpe
from diptych.data.text.cleaning import clean_words

SHARDS = (".tar", ".tgz", ".tar.gz", ".json")
SPARE = 256  # merges learned beyond those asked for, for those that make what another made


def learn(texts: Iterable[str], size: int, at_least: int = 2) -> bpe.Vocabulary:
    """A vocabulary of `size` ids, or fewer where the texts hold no more pairs that occur `at_least` times.

    The same texts give the same vocabulary. Raises UserError for a size without room for a merge, and for texts
    without a word.
    """
    if size <= bpe.BASE:
        raise UserError(f"--size {size} leaves no room for a merge: give more than {bpe.BASE}.")
    trainer = trainers.BpeTrainer(
        vocab_size=size + SPARE,
        min_frequency=at_least,
        show_progress=False,
        # Numbered beforehand: the order in which they are met differs from run to run, and breaks ties.
        special_tokens=[*bpe.BYTES, *(f"{symbol}</w>" for symbol in bpe.BYTES)],
        end_of_word_suffix="</w>",
    )
    trained = Trainable(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trained.train_from_iterator(_pieces(texts), trainer)
    merges = _without_repeats(trained)[: size - bpe.BASE]
    if not merges:
        raise UserError(f"No two letters stand together {at_least} times in these texts: give more of them.")
    return bpe.Vocabulary(merges)


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield " ".join(piece for word in clean_words(text) for piece in bpe.pieces(word) if piece not in bpe.SPECIALS)


def _without_repeats(trained: Trainable) -> list[tuple[str, str]]:
    """Two merges may make the same token by other halves; an id stands for one."""
    made: dict[str, tuple[str, str]] = {}
    for left, right in json.loads(trained.to_str())["model"]["merges"]:
        made.setdefault(left + right, (left, right))
    return list(made.values())


def read_texts(sources: Sequence[str]) -> Iterator[str]:
    """Lines of text files, and captions of shards: indexes, tars, brace patterns of tars.

    Raises UserError for what can't be read.
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
            raise UserError(f"{source} is no readable text in UTF-8 ({error}): give text files or shards.") from error


def _captions(shards: str) -> Iterator[str]:
    for sample in read_whole(open_index(shards)):
        try:
            yield from captions_of(sample)
        except BadSample:
            continue  # a training counts and names it


def write(vocabulary: bpe.Vocabulary, out: Path) -> None:
    """CLIP's merges format; packed where the name ends in .gz, the same bytes each time."""
    data = vocabulary.text.encode()
    files.write(out, gzip.compress(data, mtime=0) if out.suffix == ".gz" else data)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m diptych.data.tokenizer train SOURCE… --out FILE`; a user's mistake is one sentence and code 2."""
    parser = argparse.ArgumentParser(prog="python -m diptych.data.tokenizer", description=__doc__)
    train = parser.add_subparsers(required=True, metavar="train").add_parser("train", help=__doc__)
    train.add_argument(
        "sources", nargs="+", help="text files, one caption a line, or shards: index.json, 'x-{00..07}.tar'"
    )
    train.add_argument("--out", required=True, help="the vocabulary's file, in CLIP's merges format; .gz packs it")
    train.add_argument(
        "--size", type=int, default=49408, help="ids, [SOS] and [EOS] among them (default %(default)s)"
    )
    train.add_argument("--at-least", type=int, default=2, help="how often a pair occurs (default %(default)s)")
    given = parser.parse_args(arguments)
    try:
        vocabulary = learn(read_texts(given.sources), given.size, given.at_least)
        write(vocabulary, Path(given.out))
    except UserError as error:
        say(f"diptych: {error}", file=sys.stderr)
        sys.exit(2)
    fewer = "" if vocabulary.size == given.size else f", of {given.size} asked for: the texts hold no more pairs"
    say(f"{given.out}: {vocabulary.size} ids{fewer}; train with {to_type('model.text.vocabulary', given.out)}")
