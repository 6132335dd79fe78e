"""Captions per second on one core, our tokenizer and open_clip's, in one run.

python benchmarks/tokenizer.py [--peer FOLDER]

FOLDER has open_clip as an installed package; without it, `.venv-peers` of `make peers` is used. Captions are
tokenized in batches of 512 to int64 rows of 77. All are distinct, also over rounds, so that a cache of captions
doesn't help. Both cache words, and keep this cache from round to round. The first round is cold for both and shown
separately. The ratio is that of medians over the interleaved rounds after it, in CPU time. Ids are compared for every
caption.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

import simple_tokenizer
import texts

from diptych.data.text import bpe
from diptych.data.text.tokenizer import Tokenizer

COUNT, ROUNDS, BATCH, WORDS = 20_000, 6, 512, 20_000
# Of a hundred mixed captions; the rest are plain ASCII. English web captions have fewer of each kind.
MIXED = {texts.quoted: 15, texts.script: 15, texts.emoji: 10, texts.entities: 5}


def plain(draw: random.Random, words: list[str]) -> str:
    """Words with frequencies by rank (Zipf), some capitals and punctuation."""
    chosen = [words[int(len(words) ** draw.random()) - 1] for _ in range(draw.randrange(5, 20))]
    return draw.choice(["{}.", "{}", "{}!", "Photo: {}"]).format(" ".join(chosen).capitalize())


def captions(kind: str, seen: set[str], draw: random.Random, words: list[str]) -> list[str]:
    """COUNT captions that are not in `seen` yet."""
    kinds: list[Callable[[random.Random], str] | None] = [None] * 100
    if kind == "mixed":
        kinds = [made for made, share in MIXED.items() for _ in range(share)]
        kinds += [None] * (100 - len(kinds))
    found: list[str] = []
    while len(found) < COUNT:
        made = draw.choice(kinds)
        text = plain(draw, words) if made is None else f"{plain(draw, words)} {made(draw)}"
        if text not in seen:
            seen.add(text)
            found.append(text)
    return found


def rate(tokenizer: Callable[[list[str]], torch.Tensor], given: list[str]) -> tuple[float, torch.Tensor]:
    """Captions per second, and their ids."""
    gc.collect()
    begin = time.process_time()
    rows = [tokenizer(given[start : start + BATCH]) for start in range(0, len(given), BATCH)]
    return len(given) / (time.process_time() - begin), torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, default=simple_tokenizer.installed())
    site = parser.parse_args().peer
    if site is None:
        raise SystemExit("open_clip is not there: `make peers` installs it, or give --peer FOLDER.")
    torch.set_num_threads(1)
    print(", ".join(f"{name} {version}" for name, version in simple_tokenizer.versions(site).items()))
    ends = [token[:-4] for token in bpe.openai().tokens if token.endswith("</w>")]
    words = [word for word in ends if word.isascii() and word.isalpha() and len(word) > 1][:WORDS]
    for kind in ("plain", "mixed"):
        peer, ours = simple_tokenizer.load(site)(), Tokenizer()
        bpe.openai().words.clear()
        seen: set[str] = set()
        draw = random.Random(kind)
        rates: dict[str, list[float]] = {"ours": [], "open_clip": []}
        for _ in range(ROUNDS + 1):
            given = captions(kind, seen, draw, words)
            mine, ids = rate(ours, given)
            theirs, expected = rate(peer, given)
            assert torch.equal(ids, expected), f"ids differ on {kind} captions"
            rates["ours"].append(mine)
            rates["open_clip"].append(theirs)
        cold = rates["ours"].pop(0) / rates["open_clip"].pop(0)
        fast, slow = (statistics.median(values) for values in rates.values())
        share = sum(not text.isascii() for text in given) / COUNT
        print(
            f"{kind:<6} ours {fast:>9,.0f}/s  open_clip {slow:>7,.0f}/s  ratio {fast / slow:5.2f}  cold {cold:5.2f}"
            f"  not ASCII {share:.0%}  mismatches 0 of {COUNT * (ROUNDS + 1):,}"
        )


if __name__ == "__main__":
    main()
