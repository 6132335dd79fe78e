"""What a run's own config may have built when it goes on: a `_target_` there names any function on the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.config import ROOT
from diptych.errors import UserError

GROUPS = (
    "model",
    "data",
    "loss",
    "optim",
    "schedule",
    "trainer",
    "logger",
    "callbacks",
    "recipe",
)  # what a training builds


def known_targets() -> set[str]:
    """Every `_target_` that the configs of this version name for a training."""
    conf = ROOT / "conf"
    files = [conf / "train.yaml", *(file for group in GROUPS for file in (conf / group).rglob("*.yaml"))]
    return {name for file in files for name in re.findall(r"_target_: *([\w.]+)", file.read_text(encoding="utf-8"))}


def refuse_foreign_targets(config: Mapping[str, Any], run_dir: Path, allowed: Iterable[str]) -> None:
    """config: resolved; allowed: what this command line adds. Raises UserError for any other target."""
    foreign = sorted(set(map(str, _targets(config))) - known_targets() - set(allowed))
    if foreign:
        raise UserError(
            f"resume={run_dir} would call {foreign[0]}, which no config of this version names: if you know it and"
            f" trust that folder, add 'allow_targets=[{','.join(foreign)}]'."
        )


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
