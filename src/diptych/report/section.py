"""What an evaluation task shows in a report: a number to lead with, and a section made of texts, tables and drawings.

The page escapes every text; only `Markup` is taken as HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diptych.report.curves import Chart
from diptych.report.formats import percent
from diptych.report.record import Record


@dataclass(frozen=True)
class Headline:
    """The number on top of a page, such as "58.7" and its unit "%", and what it is of; "–" where there is none."""

    big: str
    unit: str
    what: str


def share(value: Any, what: str) -> Headline:
    """A share of 1 as per cent."""
    return Headline(percent(value), "%", what)


def of_sets(values: Sequence[float]) -> str:
    """What a mean over sets is of, in words."""
    return "one set" if len(values) == 1 else f"mean of {len(values)} sets"


Cell = str | tuple[str, str]
"""A text, or a text and the small print below it."""


@dataclass(frozen=True)
class Text:
    """A paragraph; kind: "lead" or "fine", in small print"""

    text: str
    kind: str = "lead"
    macro: ClassVar[str] = "text"


@dataclass(frozen=True)
class Row:
    """note: in small print below the name; why: a sentence in the place of the cells that are missing"""

    name: str
    cells: Sequence[Cell] = ()
    note: str = ""
    why: str = ""


@dataclass(frozen=True)
class Table:
    """head: titles of the columns, the first of which is the rows' names; kind: a class of report.css"""

    head: Sequence[str]
    rows: Sequence[Row]
    kind: str = "compared"
    macro: ClassVar[str] = "table"


@dataclass(frozen=True)
class Charts:
    charts: Sequence[Chart]
    macro: ClassVar[str] = "charts"


@dataclass(frozen=True)
class Folded:
    """Lines that a reader opens."""

    summary: str
    lines: Sequence[str]
    macro: ClassVar[str] = "folded"


@dataclass(frozen=True)
class Twins:
    """Two pictures beside each other, several times. Each pair: {"image", "other"}, and their names at the keys
    `name` and `other_name`"""

    title: str
    pairs: Sequence[dict[str, Any]]
    name: str
    other_name: str
    macro: ClassVar[str] = "twins"


@dataclass(frozen=True)
class Drawing:
    """A drawing as wide as the page, SVG that we have made."""

    svg: str
    macro: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Any]  # of the classes above


@dataclass(frozen=True)
class TaskPage:
    """What a task shows.

    title: of the page of its own evaluation; headline: from a record, the number to lead with
    place: order of its section among those of the tasks; link: name of the section in the page's navigation
    section: from a record, its section, None where the task measured nothing
    """

    title: str
    headline: Callable[[Record], Headline]
    place: int = 0
    link: str = ""
    section: Callable[[Record], Section | None] = lambda record: None
