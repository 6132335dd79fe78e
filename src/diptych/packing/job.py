"""A packing job: numbered shards, made in parts that can run on any machine and be repeated, and joined at the end.

OUT/parts/K-of-N.jsonl holds what is known of part K: a header, then a line for each finished shard. A shard's line is
written after the shard, so what a line names is there, and what a kill left behind has no line.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.terminal import counted, say
from diptych.data.io.address import printable
from diptych.packing.processes import each

EXAMPLES = 100  # names for each reason, in pack.json
NAMED = 3  # names for each reason, on the terminal


class Losses:
    """What was left out, as pack.json holds it: reason -> {"count": how many, "examples": the first names}."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Any]] = {}

    def add(self, reason: str, *names: str, count: int | None = None) -> None:
        """count: how many were left out, where not all of them are named"""
        examples = [printable(name) for name in names[:EXAMPLES]]
        self.merge({reason: {"count": len(names) if count is None else count, "examples": examples}})

    def merge(self, described: dict[str, Any]) -> None:
        """described: what another object's `describe` returned"""
        for reason, of in described.items():
            found = self._found.setdefault(reason, {"count": 0, "examples": []})
            found["count"] += of["count"]
            found["examples"] += of["examples"][: EXAMPLES - len(found["examples"])]

    def describe(self) -> dict[str, Any]:
        """Sorted by reason, so that the order of the parts makes no difference."""
        return dict(sorted(self._found.items()))

    def total(self) -> int:
        return sum(of["count"] for of in self._found.values())


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard: its line in the part's file, and most of it in the index.

    path: relative to the index's folder; no tar is written for a shard without samples
    left_out: see `Losses.describe`
    """

    number: int
    path: str
    samples: int
    bytes: int
    sha256: str | None
    left_out: dict[str, Any]
    offsets: bool = True

    def is_there(self, out: Path) -> bool:
        """Whether the shard and its offsets have the recorded lengths. They are not read."""
        shard = out / self.path
        try:
            whole = shard.stat().st_size == self.bytes
            return whole and (not self.offsets or Path(f"{shard}.idx").stat().st_size == 8 * (self.samples + 1))
        except OSError:
            return not self.samples

    def entry(self) -> dict[str, Any]:
        """The shard's entry in the index."""
        hashed = {"sha256": self.sha256} if self.sha256 else {}
        return {"path": self.path, "samples": self.samples, "bytes": self.bytes, **hashed, "offsets": self.offsets}


class Job(Protocol):
    """What is packed.

    settings: what the parts of one job have in common, as JSON
    left_out: what is lost before any shard is made
    shards: how many there will be
    """

    settings: dict[str, Any]
    left_out: Losses
    shards: int

    def tasks(self, numbers: Sequence[int], out: str) -> Iterable[Callable[[], Record]]:
        """A picklable call for each of these shards, in rising order. out: the folder of the index"""


@dataclass(frozen=True)
class Part:
    """Part `number`, counted from 1, of `of` parts of the shards in `out`."""

    out: Path
    number: int
    of: int

    @property
    def file(self) -> Path:
        return self.out / "parts" / f"{self.number}-of-{self.of}.jsonl"

    def shards(self, total: int) -> range:
        """This part's shards: a range of neighbours. Each shard is in exactly one part."""
        return range((self.number - 1) * total // self.of, self.number * total // self.of)

    def read(self) -> tuple[dict[str, Any] | None, list[Record]]:
        """(header, records sorted by shard). A line that a kill cut is skipped."""
        header, records = None, {}
        with suppress(FileNotFoundError, ValueError, TypeError):
            for line in self.file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                fields = json.loads(line)
                if header is None:
                    header = dict(fields)
                else:
                    records[fields["number"]] = Record(**fields)
        return header, [records[number] for number in sorted(records)]

    def finished(self, header: dict[str, Any]) -> list[Record]:
        """The records whose shards are there. Raises UserError when the file belongs to another job."""
        written, records = self.read()
        if written is None:
            return []
        keys = sorted((header.keys() | written.keys()) - {"left_out"})
        if differing := [key for key in keys if header.get(key) != written.get(key)]:
            raise UserError(
                f"{self.file} was begun with another {' and '.join(differing)}: give another out=,"
                f" or remove {self.out}/parts and {self.out}/index.json to start again."
            )
        return [record for record in records if record.is_there(self.out)]

    @contextmanager
    def open(self, header: dict[str, Any], records: Iterable[Record]) -> Iterator[TextIO]:
        """The file with these lines, open for more. No other process can open it until this one ends, even if it is
        killed."""
        with self.file.open("a", encoding="utf-8") as lines:
            try:
                fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"Another process writes {self.file}: wait for it, or give another out=.") from error
            except OSError:  # a file system without locks
                pass
            lines.truncate(0)
            lines.write(json.dumps(header, ensure_ascii=False) + "\n")
            for record in records:
                write_record(lines, record)
            yield lines


def write_record(lines: TextIO, record: Record) -> None:
    lines.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
    lines.flush()


def run(make: Callable[[], Job], out: str | None, part: str | None, workers: int) -> None:
    """Make the shards of one part, or of all. The last part to end joins them and writes the index.

    make: lists the source; not called for part=merge
    part: "3/64" is the third of 64 parts, None the only one, "merge" only joins them
    Raises UserError when `out` holds another job's files, and as `merge` does.
    """
    if out is None:
        raise UserError("out= is missing: give out=DIR, the folder for the shards and their index.")
    if part == "merge":
        merge(Path(out))
        return
    here = _part_of(Path(out), part)
    job = make()
    try:
        here.file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} can't be written ({error.strerror}): give another out=.") from error
    header: dict[str, Any] = {"version": 1, "part": here.number, "of": here.of, "shards": job.shards}
    header |= {**job.settings, "left_out": job.left_out.describe()}
    done, wanted = here.finished(header), here.shards(job.shards)
    missing = sorted(set(wanted) - {record.number for record in done})
    if done:
        say(f"already there: {len(done)} of {counted(len(wanted), 'shard')}")
    with here.open(header, done) as lines:
        for record in each(job.tasks(missing, out), workers, len(missing), "shards"):
            write_record(lines, record)
    if unfinished(here.out):
        say(f"part {here.number}/{here.of} is done; the last part to end writes {here.out}/index.json")
    else:
        merge(here.out)


def _part_of(out: Path, part: str | None) -> Part:
    """part: "3/64", or None for the only one. Raises UserError, also where `out` belongs to another job."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", str(part or "1/1"))
    if not match or int(match[1]) > int(match[2]):
        raise UserError(f"part={part} is not valid: give part=3/64 for the third of 64 parts, or part=merge.")
    here = Part(out, int(match[1]), int(match[2]))
    begun = any((out / "parts").glob("*.jsonl"))
    if begun and (of := len(all_parts(out))) != here.of:
        raise UserError(
            f"{out} holds a job in {counted(of, 'part')}, not {here.of}: give part=K/{of} or another out=."
        )
    if not begun and (out / "index.json").exists():
        raise UserError(f"{out}/index.json exists and is not of this job: remove it, or give another out=.")
    return here


def all_parts(out: Path) -> list[Part]:
    """Every part of the job in `out`. Raises UserError for parts of several jobs, or of none."""
    names = [re.fullmatch(r"(\d+)-of-(\d+)\.jsonl", file.name) for file in (out / "parts").glob("*")]
    totals = sorted({int(match[2]) for match in names if match})
    if len(totals) != 1:
        found = f"parts of {' and of '.join(map(str, totals))}" if totals else "no part"
        raise UserError(f"{out}/parts holds {found}: pack every part=K/N of one N there, then part=merge.")
    return [Part(out, number, totals[0]) for number in range(1, totals[0] + 1)]


def unfinished(out: Path) -> list[Part]:
    """The parts that are missing, or that lack the records of some shards."""
    wanted = []
    for part in all_parts(out):
        header, records = part.read()
        if header is None or [record.number for record in records] != list(part.shards(header["shards"])):
            wanted.append(part)
    return wanted


def merge(out: Path) -> None:
    """Join all parts into OUT/index.json, and what was left out into OUT/pack.json.

    Raises UserError when a part is missing, unfinished or of another job, or its shards have changed.
    """
    if wanted := unfinished(out):
        names = ", ".join(f"part={part.number}/{part.of}" for part in wanted[:5]) + (" …" if len(wanted) > 5 else "")
        raise UserError(f"Missing or unfinished in {out}/parts: {counted(len(wanted), 'part')}; run {names}.")
    settings: dict[str, Any] = {}
    records, losses, before = list[Record](), Losses(), 0
    for part in all_parts(out):
        header, of_part = part.read()
        assert header is not None
        header.pop("part")
        left_out = header.pop("left_out")
        if not settings:  # what was lost before any shard was made is in each part's header
            settings = header
            losses.merge(left_out)
            before = losses.total()
        if header != settings:
            raise UserError(
                f"{part.file} is of another job than the first part: run it again with the same settings."
            )
        for record in of_part:
            losses.merge(record.left_out)
            if not record.is_there(out):
                raise UserError(f"{out / record.path} changed since it was packed: run part={part.number}/{part.of}.")
        records += of_part
    _write(out, settings, [record for record in records if record.samples], losses, before)


def _write(out: Path, settings: dict[str, Any], records: list[Record], losses: Losses, before: int) -> None:
    """records: of shards with samples; before: how many were lost before any shard was made"""
    samples, lost, left_out = sum(record.samples for record in records), losses.total(), losses.describe()
    seen = samples + lost
    if seen != before + settings.get("rows", seen - before):
        raise AssertionError(f"{settings} and {before} lost before, {samples} packed and {lost} lost do not add up")
    packed = {"seen": seen, "samples": samples, "shards": len(records), "left_out": left_out}
    packed["settings"] = {key: settings[key] for key in settings if key not in ("version", "of", "shards")}
    write_json(out / "pack.json", packed)
    if samples:
        write_json(out / "index.json", {"version": 1, "shards": [record.entry() for record in records]})
    say(f"{counted(samples, 'sample')} in {counted(len(records), 'shard')}")
    for reason, of in left_out.items():
        more = ", …" if of["count"] > NAMED else ""
        say(f"  left out: {of['count']:,} × {reason}, as {', '.join(of['examples'][:NAMED])}{more}")
    say(f"{seen:,} seen = {samples:,} packed + {lost:,} left out")
    if not samples:
        most = max(left_out, key=lambda reason: left_out[reason]["count"], default="nothing was there")
        raise UserError(
            f"No row of the source gives a sample, see {out}/pack.json (most often: {most}): check path= and the"
            " captions."
        )
    say(f"index: {out}/index.json")
