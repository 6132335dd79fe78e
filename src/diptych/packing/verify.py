"""Checks a set of shards: all findings in verify.json, a table of them, and exit code 2 if there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.terminal import counted, say
from diptych.data.io.address import printable
from diptych.data.io.files import Files
from diptych.data.stream.index import read_index
from diptych.data.stream.tar import place
from diptych.packing.checking import Checked, Expected, File, Finding, check_shard, key_hash, walk
from diptych.packing.processes import each


def check(shards: Sequence[str], expected: dict[str, Expected], out: Path, workers: int) -> None:
    """Check each of these local tars, and their keys together; writes OUT/verify.json: [{"shard", "key", "reason"}].

    expected: what indices say of the shards, by path
    Raises UserError when there is any finding.
    """
    tasks = (partial(check_shard, shard, expected.get(shard)) for shard in shards)
    checked = {found.shard: found for found in each(tasks, workers, len(shards), "shards checked")}
    ordered = [checked[shard] for shard in shards]
    findings = [finding for found in ordered for finding in found.findings]
    findings += _shared_keys(ordered, workers)
    file = out / "verify.json"
    write_json(file, [finding.describe() for finding in findings])
    samples = sum(found.samples for found in ordered)
    say(
        f"{counted(samples, 'sample')} in {counted(len(shards), 'shard')},"
        f" {counted(len(findings), 'finding')}: {file}"
    )
    left_out = sum((found.left_out for found in ordered), Counter[str]())
    for reason, count in sorted(left_out.items()):
        say(f"  left out: {count:,} × {reason}")
    if findings:
        say(table(findings))
        damaged = len({finding.shard for finding in findings})
        raise UserError(
            f"{counted(len(findings), 'finding')} in {damaged} of {counted(len(shards), 'shard')}, all in {file}:"
            " restore these shards, or pack again without these samples."
        )


def indexed(index: Path) -> dict[str, Expected]:
    """What an index says, by the shard's path. Raises UserError for a file that is no index."""
    return {
        shard.path: Expected(shard.samples, shard.bytes, shard.sha256) for shard in read_index(str(index), Files())
    }


def table(findings: list[Finding]) -> str:
    """A row for each kind with its first example; the most frequent kind is first."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    lines = [f"{'reason':<22}{'findings':>9}{'shards':>8}  first"]
    for kind, of in sorted(kinds.items(), key=lambda item: -len(item[1])):
        first = " ".join(filter(None, (Path(of[0].shard).name, of[0].key, of[0].said)))
        lines.append(f"{kind:<22}{len(of):>9,}{len({finding.shard for finding in of}):>8,}  {printable(first)}")
    return "\n".join(lines)


def _shared_keys(checked: list[Checked], workers: int) -> Iterator[Finding]:
    """Keys that are in several shards. Their hashes (12 bytes a sample) tell which shards to read again for keys."""
    keys = np.concatenate([shard.keys for shard in checked])
    owners = np.repeat(np.arange(len(checked), dtype=np.int32), [len(shard.keys) for shard in checked])
    order = np.argsort(keys, kind="stable")
    keys, owners = keys[order], owners[order]
    shared = np.flatnonzero((keys[1:] == keys[:-1]) & (owners[1:] != owners[:-1]))
    hashes = frozenset(keys[shared].tolist())
    concerned = [checked[number].shard for number in sorted({*owners[shared].tolist(), *owners[shared + 1].tolist()})]
    tasks = (partial(_keys_with, shard, hashes) for shard in concerned)
    named = dict(each(tasks, workers, len(concerned), "duplicate keys"))
    first: dict[str, str] = {}
    for shard in concerned:
        for key in named[shard]:
            if key in first:
                yield Finding(shard, key, "duplicate key", f"also in {first[key]}")
            first.setdefault(key, shard)


def _keys_with(shard: str, hashes: frozenset[int]) -> tuple[str, list[str]]:
    """(shard, its keys with one of these hashes, each once)"""
    keys: dict[str, None] = {}
    for found in walk(shard):
        if isinstance(found, File):
            part = place(found.member.name, found.member.kind)
            if not isinstance(part, str) and key_hash(part[0]) in hashes:
                keys[part[0]] = None
    return shard, list(keys)
