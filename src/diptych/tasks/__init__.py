"""One file an evaluation task: what is measured, its table, and its section of the report; and embeddings.

A module of this folder with a function `table` and a `PAGE` is a task: a new one needs no line here.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.report.section import TaskPage


def pages() -> dict[str, TaskPage]:
    """What each task shows in a report, by its name, in the order of their sections."""
    modules = {each.name: import_module(f"{__name__}.{each.name}") for each in iter_modules(__path__)}
    found = {name: module.PAGE for name, module in modules.items() if hasattr(module, "PAGE")}
    return dict(sorted(found.items(), key=lambda item: item[1].place))
