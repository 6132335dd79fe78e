"""A packing: shards that follow from positions alone, in parts that run anywhere and again, joined at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.terminal import counted, say
from diptych.packing.parts import Part, all_parts, there, write_record
from diptych.packing.processes import each
from diptych.packing.writing import Losses, Record, remove_partials

NAMED = 3  # of those that were left out for one reason; pack.json names more


class Job(Protocol):
    """What is packed.

    settings: what two parts of one job share, as JSON
    left_out: what is known to be lost before any shard is made, see `Losses.describe`
    shards: how many there will be
    """

    settings: dict[str, Any]
    left_out: dict[str, Any]
    shards: int

    def tasks(self, numbers: Sequence[int], out: str) -> Iterable[Callable[[], Record]]:
        """A picklable call for each of these shards of the index in `out`, in rising order."""


def run(make: Callable[[], Job], out: str | None, part: str | None, workers: int) -> Path | None:
    """Make the shards of one part, or of all; the last part to end joins them -> the index, once it is written.

    make: lists the source; not asked to merge
    part: "3/64" is the third of 64 parts, None the only one, "merge" only joins them
    Raises UserError when `out` holds another job's files, and what `merge` raises.
    """
    if out is None:
        raise UserError("out= is missing: type out=DIR, the folder for the shards and their index.")
    if part == "merge":
        return merge(Path(out))
    here = Part.parse(Path(out), part)
    _check(here)
    job = make()
    try:
        here.file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} can't be written ({error.strerror}): take another out=.") from error
    header: dict[str, Any] = {"version": 1, "part": here.number, "of": here.of, "shards": job.shards}
    header |= {**job.settings, "left_out": job.left_out}
    done = here.resumed(header)
    missing = sorted(set(here.shards(job.shards)) - {record.number for record in done})
    if done:
        say(f"already there: {len(done)} of {counted(len(here.shards(job.shards)), 'shard')}")
    with here.open(header, done) as lines:
        remove_partials(here.out, missing)
        for record in each(job.tasks(missing, out), workers, len(missing), "shards"):
            write_record(lines, record)
    if not unfinished(here.out):
        return merge(here.out)
    say(f"part {here.number}/{here.of} is done; the last part to end writes {here.out}/index.json")
    return None


def _check(part: Part) -> None:
    begun = (part.out / "parts").is_dir() and any((part.out / "parts").glob("*.jsonl"))
    if begun and (of := len(all_parts(part.out))) != part.of:
        raise UserError(
            f"{part.out} holds a job in {counted(of, 'part')}, not {part.of}: take part=K/{of}, or another out=."
        )
    if not begun and (part.out / "index.json").exists():
        raise UserError(f"{part.out}/index.json is there and not of this job: remove it, or take another out=.")


def unfinished(out: Path) -> list[Part]:
    """The parts that are missing, or whose shards aren't all recorded."""
    wanted = []
    for part in all_parts(out):
        header, records = part.read()
        if header is None or [record.number for record in records] != list(part.shards(header["shards"])):
            wanted.append(part)
    return wanted


def merge(out: Path) -> Path:
    """Join all parts into OUT/index.json, and what was left out into OUT/pack.json; returns the index.

    Raises UserError when a part is missing, unfinished or of another job, or its shards have changed.
    """
    if wanted := unfinished(out):
        names = ", ".join(f"part={part.number}/{part.of}" for part in wanted[:5]) + (" …" if len(wanted) > 5 else "")
        raise UserError(f"Missing or unfinished in {out}/parts: {counted(len(wanted), 'part')}; run {names}.")
    first, records, losses, before = None, list[Record](), Losses(), 0
    for part in all_parts(out):
        header, of_part = part.read()
        assert header is not None
        header.pop("part")
        left_out = header.pop("left_out")
        if header != (first or header):
            raise UserError(
                f"{part.file} is of another job than the first part: run it again with the same settings."
            )
        if first is None:
            losses.merge(left_out)
            before = _count(left_out)
        first = header
        records += of_part
        for record in of_part:
            losses.merge(record.left_out)
            if not there(out, record):
                raise UserError(f"{out / record.path} changed since it was packed: run part={part.number}/{part.of}.")
    assert first is not None
    return _write(out, first, records, losses, before)


def _write(out: Path, settings: dict[str, Any], records: list[Record], losses: Losses, before: int) -> Path:
    kept = [record for record in records if record.samples]
    samples, left_out, index = sum(record.samples for record in kept), losses.describe(), out / "index.json"
    lost = sum(of["count"] for of in left_out.values())
    seen = before + settings.get("rows", samples + lost - before)
    if seen != samples + lost:
        raise AssertionError(f"{seen} seen, {samples} packed and {lost} left out do not add up")
    packed = {"seen": seen, "samples": samples, "shards": len(kept), "left_out": left_out}
    packed["settings"] = {key: settings[key] for key in settings if key not in ("version", "of", "shards")}
    write_json(out / "pack.json", packed)
    if samples:
        write_json(index, {"version": 1, "shards": [_entry(record) for record in kept]})
    say(f"{counted(samples, 'sample')} in {counted(len(kept), 'shard')}")
    for reason, of in left_out.items():
        say(f"  left out: {of['count']:,} × {reason}, as {_some(of)}")
    say(f"{seen:,} seen = {samples:,} packed + {lost:,} left out")
    if not samples:
        most = max(left_out, key=lambda reason: left_out[reason]["count"], default="nothing was there")
        raise UserError(
            f"No row of the source gives a sample, see {out}/pack.json (most often: {most}): check path= and the"
            " captions."
        )
    say(f"index: {index}")
    return index


def _count(left_out: dict[str, Any]) -> int:
    return sum(of["count"] for of in left_out.values())


def _some(of: dict[str, Any]) -> str:
    """The first few by name."""
    return ", ".join(of["examples"][:NAMED]) + (", …" if of["count"] > NAMED else "")


def _entry(record: Record) -> dict[str, Any]:
    entry = {"path": record.path, "samples": record.samples, "bytes": record.bytes}
    if record.sha256:
        entry["sha256"] = record.sha256
    return {**entry, "offsets": record.offsets}
