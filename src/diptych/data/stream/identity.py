"""The identity of a run's data: a resume uses it to check that its next batches are those that the run would have
had.

It has two parts. The first is a digest of everything that the order of samples depends on. The second tells each
shard
from a different file in its place: its length, the hash in the index, where its samples begin (of a scanned tar), a
few pieces of its bytes (of a local file), and the beginning of some shards. None of these requires reading all the
data, and none depends on where the shards are. So no ETag is used: another server, or a copy, has a different one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.data.io.address import is_local, is_remote, local
from diptych.data.io.files import Files
from diptych.data.stream.index import Index
from diptych.data.stream.order import EDITION, Order

EVIDENCE = ("sha256", "offsets", "pieces", "heads")  # of a shard's content, each "" if unknown
HEADS, HEAD = 16, 2**14  # number of shards, evenly spaced, and bytes of each: one request per shard before the start
PIECES, PIECE = 4096, 512  # number of pieces over all shards, at most 16 and at least 1 per shard, and bytes of each


def describe(order: Order, files: Files | None = None) -> dict[str, Any]:
    """Plain data for a checkpoint: the digest, and a list over shards for each property.

    files: opens remote shards; None: no request to a server
    """
    index = order.index
    return {
        "order": order_digest(order),
        "names": [_name(shard.path, name) for shard, name in zip(index.shards, index.names, strict=True)],
        "samples": [shard.samples for shard in index.shards],
        "bytes": [shard.bytes for shard in index.shards],
        "weight": [shard.weight for shard in index.shards],
        "sha256": [(shard.sha256 or "")[:32] for shard in index.shards],
        "offsets": [_offsets(index, shard.path) for shard in index.shards],
        "pieces": [_pieces(shard.path, len(index.shards)) for shard in index.shards],
        "heads": _heads(index, files),
    }


def order_digest(order: Order) -> str:
    """A digest of all that `Order` depends on: equal digests mean equal orders in every epoch."""
    shards = [(shard.samples, float(shard.weight)) for shard in order.index.shards]
    numbers: list[Any] = [EDITION, order.seed, order.batch_size, order.streams, order.block, shards]
    if order.index.held:
        numbers.append([(shard, held.tolist()) for shard, held in sorted(order.index.held.items())])
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:32]


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What has changed, for a sentence that begins with "its data is not that of before:"; None if the same samples
    come in the same order."""
    old, new = len(before["names"]), len(now["names"])
    for number in range(min(old, new)):
        if said := _of_shard(before, now, number):
            return f"shard {number + 1} of {old}, {before['names'][number]}, {said}"
    if old != new:
        longer = before if old > new else now
        return f"{old} shards became {new}, {longer['names'][min(old, new)]} {'is gone' if old > new else 'is new'}"
    if before["order"] != now["order"]:
        return "seed, batch size, streams, blocks or the pairs held out are different"
    return None


def _of_shard(before: Mapping[str, Any], now: Mapping[str, Any], number: int) -> str | None:
    then, here = ({key: of[key][number] for key in of if key != "order"} for of in (before, now))
    known = [key for key in EVIDENCE if then.get(key) and here.get(key)]  # earlier checkpoints have no heads
    same_content = all(then[key] == here[key] for key in known) and then["bytes"] == here["bytes"]
    if then["names"] != here["names"] and (not same_content or not known):
        return f"is now {here['names']}"
    for key, unit in (("samples", "samples"), ("bytes", "bytes")):
        if then[key] != here[key]:
            return f"has {here[key]} {unit} where it had {then[key]}"
    if not same_content:
        return "is another file of the same length"
    if then["weight"] != here["weight"]:
        return f"has weight {here['weight']:g} where it had {then['weight']:g}"
    return None


def _name(path: str, name: str) -> str:
    """The name without secrets of an address or a command."""
    if path.startswith("pipe:"):
        return f"pipe {hashlib.sha256(path.encode()).hexdigest()[:8]}"
    return name if is_local(path) else re.split("[?#]", path)[0].rsplit("/", 1)[-1]


def _offsets(index: Index, path: str) -> str:
    found = index.found.get(path)
    return "" if found is None else hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()[:16]


def _heads(index: Index, files: Files | None) -> list[str]:
    """Hashes of some shards' beginnings: of remote shards without a hash in the index, and of local ones, which may
    move to a server."""
    total = len(index.shards)
    chosen = {total * n // min(HEADS, total) for n in range(min(HEADS, total))}
    heads = [""] * total
    for number in sorted(chosen):
        shard = index.shards[number]
        if not is_local(shard.path) and (files is None or not is_remote(shard.path) or shard.sha256):
            continue
        try:
            with (files or Files()).begin(shard.path, min(HEAD, shard.bytes)) as file:
                heads[number] = hashlib.sha256(file.read()).hexdigest()[:16]
        except UserError:  # reading the shard will report it; the next request would wait as long, in vain
            break
    return heads


def _pieces(path: str, shards: int) -> str:
    """A hash of evenly spaced pieces of a local file; a tar of other samples has other bytes there."""
    if not is_local(path):
        return ""
    number = max(1, min(16, PIECES // shards))
    digest = hashlib.sha256()
    try:
        with Path(local(path)).open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            for piece in range(number):
                file.seek(size * piece // number // PIECE * PIECE)
                digest.update(file.read(PIECE))
    except OSError:  # reading the shard will report it
        return ""
    return digest.hexdigest()[:16]
