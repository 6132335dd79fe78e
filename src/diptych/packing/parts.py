"""What is known of each part of a packing: OUT/parts/K-of-N.jsonl, a header, then a line a finished shard.

A shard's line is written after the shard, so what a line names is there, and what a kill left has no line.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from diptych.base.errors import UserError
from diptych.packing.writing import Record

WRITTEN = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass(frozen=True)
class Part:
    """The `number`-th, from 1, of `of` parts of the shards in `out`."""

    out: Path
    number: int
    of: int

    @classmethod
    def parse(cls, out: Path, part: str | None) -> Part:
        """part: "3/64", or None for the only one. Raises UserError."""
        match = WRITTEN.fullmatch(str(part or "1/1"))
        if not match or int(match[1]) > int(match[2]):
            raise UserError(f"part={part} is no part: take part=3/64 for the third of 64, or part=merge.")
        return cls(out, int(match[1]), int(match[2]))

    @property
    def file(self) -> Path:
        return self.out / "parts" / f"{self.number}-of-{self.of}.jsonl"

    def shards(self, total: int) -> range:
        """Neighbours, and every shard in one part."""
        return range((self.number - 1) * total // self.of, self.number * total // self.of)

    def read(self) -> tuple[dict[str, Any] | None, list[Record]]:
        """(header, records in the shards' order); a line that a kill cut is none."""
        header, records = None, {}
        with suppress(FileNotFoundError, ValueError, TypeError):
            for line in self.file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                fields = json.loads(line)
                if header is None:
                    header = dict(fields)
                else:
                    records[fields["number"]] = Record(**fields)
        return header, [records[number] for number in sorted(records)]

    def resumed(self, header: dict[str, Any]) -> list[Record]:
        """The records whose shards are there. Raises UserError when they belong to another job."""
        written, records = self.read()
        if written is None:
            return []
        keys = sorted((header.keys() | written.keys()) - {"left_out"})
        differing = [key for key in keys if header.get(key) != written.get(key)]
        if differing:
            raise UserError(
                f"{self.file} was begun with another {' and '.join(differing)}: take another out=,"
                f" or remove {self.out}/parts and {self.out}/index.json to begin again."
            )
        return [record for record in records if there(self.out, record)]

    @contextmanager
    def open(self, header: dict[str, Any], records: Iterable[Record]) -> Iterator[TextIO]:
        """The file with these lines, to be written on, for this process alone; a killed one lets go of it."""
        with self.file.open("a", encoding="utf-8") as lines:
            try:
                fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"Another process writes {self.file}: wait for it, or take another out=.") from error
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


def there(out: Path, record: Record) -> bool:
    """Whether the shard is as it was recorded: by its length and that of its offsets, without reading them."""
    shard = out / record.path
    try:
        whole = shard.stat().st_size == record.bytes
        return whole and (not record.offsets or Path(f"{shard}.idx").stat().st_size == 8 * (record.samples + 1))
    except OSError:
        return not record.samples


def all_parts(out: Path) -> list[Part]:
    """Every part of the job whose files lie in `out`. Raises UserError for those of several jobs, or of none."""
    names = [re.fullmatch(r"(\d+)-of-(\d+)\.jsonl", file.name) for file in (out / "parts").glob("*")]
    totals = sorted({int(match[2]) for match in names if match})
    if len(totals) != 1:
        found = f"parts of {' and of '.join(map(str, totals))}" if totals else "no part"
        raise UserError(f"{out}/parts holds {found}: pack every part=K/N of one N there, then part=merge.")
    return [Part(out, number, totals[0]) for number in range(1, totals[0] + 1)]
