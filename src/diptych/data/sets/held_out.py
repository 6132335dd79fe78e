"""Pairs that are held out of training to validate on, chosen by a hash of their keys.

The key decides, not the place: a pair stays on its side when a set is packed again, grows, or is read in another
layout, and all pairs of one key are on one side.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.terminal import counted
from diptych.data.io.address import is_local
from diptych.data.io.files import Files
from diptych.data.sets.evalset import EvalSet, Item
from diptych.data.sets.pair_set import Place, pairs_at
from diptych.data.stream.index import Index
from diptych.data.stream.pairs import BadSample, group_of
from diptych.data.stream.shards import Damaged, keys

AUTO = "auto"
SHARE, MOST, BELOW = 0.02, 1000, 1_000_000
"""`auto` holds out this share of a set, at most MOST pairs, and nothing of a set of BELOW pairs or more."""
LEAST, LARGEST = 8, 0.2
"""`auto` holds out at least LEAST pairs, and nothing where these are more than this share of the set."""


@dataclass
class HeldOut:
    """evalset: the pairs; groups: key -> group, for losses that take groups; told: for `metrics.json`"""

    evalset: EvalSet
    groups: dict[str, int] | None = None
    told: dict[str, Any] = field(default_factory=dict)

    def groups_of(self, keys: list[str]) -> Tensor | None:
        return None if self.groups is None else torch.tensor([self.groups[key] for key in keys])


def check(wanted: Any) -> None:
    """Raises UserError where `data.validation` is neither a number of pairs nor `auto`."""
    if wanted != AUTO and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 0):
        raise UserError(
            f"data.validation={wanted} must be a whole number of pairs to hold out, 0 for none, or {AUTO}: "
            f"{SHARE:.0%} of them, {LEAST} to {MOST:,}, of sets of {round(LEAST / LARGEST)} to {BELOW - 1:,} pairs."
        )


def hold_out(index: Index, wanted: int | str, files: Files) -> tuple[Index, str]:
    """The index less the pairs that are held out (`Index.held`), and a sentence for the log.

    wanted: how many, or `auto`. Raises UserError where there are too few pairs, or where the keys can't be read.
    """
    remote = next((shard.path for shard in index.shards if not is_local(shard.path)), None)
    total = index.samples
    if wanted == AUTO:
        if total >= BELOW:
            return index, f"no pair of {total:,} is held out for validation; data.validation=N holds out N."
        if remote is not None:
            return index, "no pair is held out for validation, since keys of remote shards are not read."
    elif remote is not None and wanted:
        raise UserError(
            f"data.validation={wanted} chooses pairs by their keys, which are not read of remote shards: take"
            " data.validation=0, and data.evaluate=TAR for pairs of a shard of their own."
        )
    number = auto(total) if wanted == AUTO else int(wanted)
    if not number:
        why = "the set is small; data.validation=N holds out N" if wanted == AUTO else "data.validation=0"
        return index, f"no pair of {total:,} is held out for validation: {why}."
    held = _chosen(index, number, files)
    count = sum(map(len, held.values()))
    if not count:
        if wanted == AUTO:
            return index, "no pair is held out for validation: many share one key."
        raise UserError(f"data.validation={wanted} is fewer than the pairs that share one key: take more, or 0.")
    apart = f"{count:,} of {counted(total, 'pair')} {'is' if count == 1 else 'are'} held out for validation"
    told = f"{apart}, chosen by a hash of their keys"
    return replace(index, held=held), f"{told} (data.validation={wanted})."


def auto(total: int) -> int:
    """How many of a set below BELOW pairs: the loss of one pair is always 0, so a few pairs measure nothing."""
    number = min(MOST, max(LEAST, round(SHARE * total)))
    return number if number <= LARGEST * total else 0


def _chosen(index: Index, number: int, files: Files) -> dict[int, np.ndarray]:
    """Shard -> places held out: the keys with the lowest hashes, as long as they make at most `number` pairs."""
    places: list[tuple[int, int, int]] = []
    for shard in range(len(index.shards)):
        places += [(hashed(key), shard, n) for n, key in enumerate(keys(index, shard, files)) if key is not None]
    if number >= len(places):
        raise UserError(
            f"data.validation={number} leaves none of the {counted(len(places), 'pair')} to train on: take fewer."
        )
    size = Counter(value for value, _, _ in places)
    taken, last = 0, -1
    for value in sorted(size):
        if taken + size[value] > number:
            break
        taken, last = taken + size[value], value
    held: dict[int, list[int]] = {}
    for value, shard, n in places:
        if value <= last:
            held.setdefault(shard, []).append(n)
    return {shard: np.array(numbers, dtype=np.int64) for shard, numbers in held.items()}


def hashed(key: str) -> int:
    """64 bits of a key."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def held_out(index: Index, files: Files, captions: str | None, groups: str | None) -> HeldOut | None:
    """The pairs that `hold_out` chose, as a set; samples that give no pair are named in its `skipped`. None without
    any."""
    places = [(shard, int(n)) for shard, numbers in index.held.items() for n in numbers]
    if not places:
        return None
    found = pairs_at(index, files, "pairs", captions, places)
    # In the order of hashes, so that the batches of the validation's loss don't depend on the layout either.
    items = sorted(found.items, key=lambda item: (hashed(_alone(item, index)), item[0]))
    found = replace(found, items=items, classnames=[], templates=[], role="validation")
    unread = {why: len(named) for why, named in found.skipped.items()}
    told = {"held_out": len(places), "unread": unread}
    if groups is None:
        return HeldOut(found, None, told)
    of: dict[str, int] = {}
    kept: list[Item] = []
    for item in items:
        place = item[1]
        assert isinstance(place, Place)
        sample = place.reader.sample(place.shard, place.number)
        try:
            of[item[0]] = group_of({} if isinstance(sample, Damaged) else sample, groups)
            kept.append(item)
        except BadSample as error:
            unread[str(error)] = unread.get(str(error), 0) + 1
    return HeldOut(replace(found, items=kept), of, told)


def _alone(item: Item, index: Index) -> str:
    """An item's key without its shard's name."""
    place = item[1]
    assert isinstance(place, Place)
    return item[0].removeprefix(f"{index.names[place.shard]}/")
