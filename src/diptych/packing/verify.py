"""Every shard read whole: all that is wrong, in verify.json, as a table, and as an exit code."""

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
from diptych.packing.checking import Checked, Expected, Finding, check_shard, key_hash
from diptych.packing.processes import each
from diptych.packing.tars import File, walk


def check(shards: Sequence[str], expected: dict[str, Expected], out: Path, workers: int) -> None:
    """Check local tars, and against each other; writes OUT/verify.json: [{"shard", "key", "reason"}].

    expected: what indices say of the shards, by path
    Raises UserError when there is any finding.
    """
    tasks = (partial(_numbered, number, shard, expected.get(shard)) for number, shard in enumerate(shards))
    checked = dict(each(tasks, workers, len(shards), "shards checked"))
    ordered = [checked[number] for number in range(len(shards))]
    findings = [finding for shard in ordered for finding in shard.findings]
    findings += _shared_keys(ordered, workers)
    file = out / "verify.json"
    write_json(file, [finding.describe() for finding in findings])
    samples = sum(shard.samples for shard in ordered)
    say(
        f"{counted(samples, 'sample')} in {counted(len(shards), 'shard')},"
        f" {counted(len(findings), 'finding')}: {file}"
    )
    left_out = sum((shard.left_out for shard in ordered), Counter[str]())
    for reason, count in sorted(left_out.items()):
        say(f"  left out: {count:,} × {reason}")
    if findings:
        say(table(findings))
        damaged = len({finding.shard for finding in findings})
        raise UserError(
            f"{counted(len(findings), 'finding')} in {damaged} of {counted(len(shards), 'shard')}, all in {file}:"
            " restore these shards, or pack again without these samples."
        )


def _numbered(number: int, shard: str, expected: Expected | None) -> tuple[int, Checked]:
    return number, check_shard(shard, expected)


def indexed(index: Path) -> dict[str, Expected]:
    """What an index says, by the shard's path. Raises UserError for a file that is no index."""
    return {
        shard.path: Expected(shard.samples, shard.bytes, shard.sha256) for shard in read_index(str(index), Files())
    }


def table(findings: list[Finding]) -> str:
    """A row a kind, the most frequent first, with its first example."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    lines = [f"{'reason':<22}{'findings':>9}{'shards':>8}  first"]
    for kind, of in sorted(kinds.items(), key=lambda item: -len(item[1])):
        first = " ".join(filter(None, (Path(of[0].shard).name, of[0].key, of[0].said)))
        lines.append(f"{kind:<22}{len(of):>9,}{len({finding.shard for finding in of}):>8,}  {printable(first)}")
    return "\n".join(lines)


def _shared_keys(checked: list[Checked], workers: int) -> Iterator[Finding]:
    """Keys of several shards. Found by their hashes, 12 bytes a sample, then named from the shards concerned."""
    keys = np.concatenate([shard.keys for shard in checked])
    owners = np.repeat(np.arange(len(checked), dtype=np.int32), [len(shard.keys) for shard in checked])
    order = np.argsort(keys, kind="stable")
    keys, owners = keys[order], owners[order]
    shared = np.flatnonzero((keys[1:] == keys[:-1]) & (owners[1:] != owners[:-1]))
    hashes = frozenset(keys[shared].tolist())
    concerned = sorted({*owners[shared].tolist(), *owners[shared + 1].tolist()})
    tasks = (partial(_named, number, checked[number].shard, hashes) for number in concerned)
    named = dict(each(tasks, workers, len(concerned), "duplicate keys"))
    first: dict[str, str] = {}
    for number in concerned:
        shard = checked[number].shard
        for key in named[number]:
            if key in first:
                yield Finding(shard, key, "duplicate key", f"also in {first[key]}")
            first.setdefault(key, shard)


def _named(number: int, shard: str, hashes: frozenset[int]) -> tuple[int, list[str]]:
    """The keys of a shard with one of these hashes, each once."""
    keys: dict[str, None] = {}
    for found in walk(shard):
        if isinstance(found, File):
            part = place(found.member.name, found.member.kind)
            if not isinstance(part, str) and key_hash(part[0]) in hashes:
                keys[part[0]] = None
    return number, list(keys)
