"""Class names, templates and class subsets of the usual benchmarks, pinned: another list gives another accuracy.

A folder a benchmark; `sources.json` says where they are from and holds the SHA-256 of each file.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.textfile import read_json, split_lines

ROOT = Path(__file__).parent
NAMES, TEMPLATES, WNIDS = "classnames.txt", "zeroshot_classification_templates.txt", "wnids.txt"


def class_names(benchmark: str) -> list[str]:
    """In the order of the labels. Raises UserError where none are pinned."""
    return _lines(benchmark, NAMES)


def templates(benchmark: str) -> list[str]:
    """With `{}`; ImageNet's 80, or as many as the benchmark has. Raises UserError where none are pinned."""
    return [line.replace("{c}", "{}") for line in _lines(benchmark, TEMPLATES)]


def wnids(benchmark: str) -> list[str]:
    """WordNet ids, sorted, which is the order of the labels: imagenet1k's 1,000, imagenet-a's and -r's 200."""
    return _lines(benchmark, WNIDS)


def _lines(benchmark: str, file: str) -> list[str]:
    name = f"{benchmark}/{file}"
    if name not in _hashes():
        known = ", ".join(sorted(each.partition("/")[0] for each in _hashes() if each.endswith(f"/{file}")))
        raise UserError(f"The benchmark {benchmark!r} has no pinned {file}: take one of {known}.")
    text = (ROOT / name).read_bytes()
    if sha256(text).hexdigest() != _hashes()[name]:
        raise UserError(f"{ROOT / name} differs from what sources.json pins: restore the repository's file.")
    return split_lines(text.decode())


@cache
def _hashes() -> dict[str, str]:
    return read_json(ROOT / "sources.json")["sha256"]
