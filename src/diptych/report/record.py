"""The files of a run's folder, read back: only config.yaml has to be there, and no file is trusted. And metrics.json,
which several tasks write."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.moved import current
from diptych.base.terminal import complain
from diptych.report.formats import mapping, number

PARTS = {
    "environment.txt": "the environment",
    "metrics.jsonl": "the curves",
    "samples.json": "the counts of samples read and skipped",
    "metrics.json": "the evaluation",
    "examples.json": "the examples",
    "gallery.json": "the retrieval gallery",
    "details.json": "calibration, classes and confusions",
}
"""File -> what a reader misses without it."""
ASKED_FOR = ("profile.json",)  # parts that only some runs are asked to write

UNWRITTEN = "the run did not write it"


@dataclass
class Record:
    """A run as read from disk. A part that is missing is empty, and `missing` says why."""

    name: str
    config: str
    environment: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, Any] = field(default_factory=dict)
    gallery: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    checkpoint: str = ""
    """Which weights an evaluation is of."""
    task: str = ""
    """The task that wrote an evaluation's config last, by the name of its module: "zeroshot", "fewshot", …"""
    evaluation: bool = False
    """Whether a task of evaluate.py wrote it: then few parts are expected."""
    damaged: int = 0
    """Lines of metrics.jsonl that could not be read."""

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """The steps and values at which `key` was logged; nan (a gap in a curve) for what is not a number."""
        points = [(line["step"], line[key]) for line in self.lines if key in line]
        return [step for step, _ in points], [number(value) for _, value in points]

    def sets(self) -> dict[str, dict[str, Any]]:
        """Name -> zero-shot numbers, in the order they were written."""
        sets = mapping(mapping(self.metrics.get("zeroshot")).get("sets"))
        return {name: row for name, row in sets.items() if isinstance(row, dict)}


def read(run_dir: Path) -> Record:
    """Read a run folder. Raises UserError where it has no config.yaml, and so is not a run."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run_dir} holds no config.yaml, so it is not a run: give the folder a run wrote.")
    config = path.read_text(encoding="utf-8", errors="replace")
    told = _parsed(config)
    name = told.get("name")
    record = Record(name if isinstance(name, str) and name else run_dir.resolve().name, config)
    record.evaluation, record.checkpoint = "task" in told, str(told.get("checkpoint") or "")
    measure = current(str(mapping(told.get("task")).get("_target_") or ""))
    record.task = measure.rpartition(".")[0].rpartition(".")[2]
    for file in (*PARTS, *ASKED_FOR):
        _read_part(record, run_dir / file)
    expected = _expected(record)
    record.missing = {file: why for file, why in record.missing.items() if file in expected or why != UNWRITTEN}
    return record


def _expected(record: Record) -> set[str]:
    """The parts that a reader misses where they were not written."""
    if record.evaluation:
        return {"environment.txt", "metrics.json"}
    if "metrics.json" in record.missing or "zeroshot" in record.metrics:
        return set(PARTS)
    return set(PARTS) - {"examples.json", "gallery.json", "details.json"}  # which are of labelled sets


def folder_of_config(out: Path, task: str) -> Path:
    """Where an evaluation that writes into `out` keeps its own config: there, or below it where its numbers join
    those of a run, whose config stays. Raises UserError for a folder of something else that has a config or weights.
    """
    config = out / "config.yaml"
    if config.is_file() and "task" not in _parsed(config.read_text(encoding="utf-8", errors="replace")):
        if (out / "checkpoints").is_dir():
            return out / "evaluation" / task
    elif not any(file.suffix in (".safetensors", ".ckpt", ".pt", ".bin") for file in out.iterdir()):
        return out
    raise UserError(f"out={out} holds a model: results there would write over its config. Take another folder.")


def _read_part(record: Record, path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        record.missing[path.name] = UNWRITTEN
        return
    if path.suffix == ".txt":
        setattr(record, path.stem, text)
    elif path.suffix == ".jsonl":
        record.lines, record.damaged = _lines(text)
        if not record.lines:
            record.missing[path.name] = "it holds no complete line"
    else:
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            record.missing[path.name] = f"it is not JSON (line {error.lineno}: {error.msg})"
            return
        if isinstance(content, dict):
            setattr(record, path.stem, content)
        else:
            record.missing[path.name] = "it is not a JSON object"


def _lines(text: str) -> tuple[list[dict[str, Any]], int]:
    """Lines with a step, ordered by it, and how many others there are: a run that is still writing, or was killed,
    may leave half a line."""
    found, damaged = [], 0
    for line in filter(None, text.split("\n")):
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            content = None
        if isinstance(content, dict) and isinstance(content.get("step"), int):
            found.append(content)
        else:
            damaged += 1
    return sorted(found, key=lambda content: content["step"]), damaged


def _parsed(config: str) -> dict[str, Any]:
    try:
        return mapping(plain.parse(config, "config.yaml"))
    except UserError:
        return {}


def merge_metrics(file: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write `metrics` beside what the file holds already, and return all of it. Sets whose numbers are lost by that
    are named on stderr. Raises UserError for a file that holds something else."""
    try:
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not isinstance(before, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not a metrics.json of ours ({error}): remove it, or choose another folder."
        ) from error
    for part, value in metrics.items():
        if gone := _sets(before.get(part)) - _sets(value):
            complain(f"{part} of {', '.join(sorted(gone))} in {file} is replaced.")
    write_json(file, {**before, **metrics})
    return {**before, **metrics}


def _sets(part: Any) -> set[str]:
    """The sets that a part of the metrics has numbers of."""
    rows = mapping(mapping(part).get("sets", part))
    return {name for name, row in rows.items() if isinstance(row, dict)}
