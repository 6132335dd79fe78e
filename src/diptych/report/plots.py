"""Figures: the README's, of a run's accuracy on styles it never saw and some of the pictures, and the notebooks'."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.terminal import one_line
from diptych.report import view
from diptych.report.formats import percent, picture
from diptych.report.gallery import shown_examples
from diptych.report.record import Record, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, ACCENT, PALE, WRONG = "#1f1d1a", "#69645c", "#e3dfd7", "#2f4f9e", "#aab6d3", "#9a3d20"
SIZE = (8.0, 3.5)
"""Inches; 200 dots each make it 1600 × 700."""

ROWS, COLUMNS = 3, 5
MARKS = {"unseen": ("†", "unseen concepts"), "validation": ("*", "validation"), "redrawn": ("‡", "redrawn")}


def results_figure(run_dir: Path, out_png: Path) -> None:
    """Draw 1600 × 700 pixels: top-1 by set with chance, beside test pictures of the unseen styles, a column
    each, with what the model says they are. Raises UserError where the run lacks metrics.json or
    examples.json."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    record = read(run_dir)
    for file in ("metrics.json", "examples.json"):
        if file in record.missing:
            raise UserError(f"No figure of {run_dir}: {file} is missing ({record.missing[file]}).")
    with rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=SIZE, dpi=200, facecolor="white")
        _headline(figure, view.headline(record))
        _bars(figure.add_axes((0.16, 0.115, 0.27, 0.735)), record)
        _pictures(figure, record)
        figure.savefig(out_png, format="png")


def _headline(figure: Figure, top: dict[str, Any]) -> None:
    value = f"{percent(top['top1'])} %"
    told = f"{top['what']};\nchance is {percent(top['chance'], 2)} %"
    figure.text(0.015, 0.94, value, fontsize=15, weight="bold", va="center", color=ACCENT)
    figure.text(0.125, 0.94, told, fontsize=8, color=INK, va="center", linespacing=1.25)


def _bars(axes: Axes, record: Record) -> None:
    rows = [row for group in view.groups(record) for row in group["rows"]]
    for place, row in enumerate(rows):
        value, chance = 100 * row["top1"], 100 * row["chance"]
        axes.barh(place, value, color=PALE if row["role"] in MARKS else ACCENT, height=0.62)
        axes.plot([chance, chance], [place - 0.42, place + 0.42], color=WRONG, linewidth=1.2)
        axes.text(value + 1.5, place, percent(row["top1"]), va="center", color=INK)
    names = [" ".join([_short(row["name"], 22), MARKS.get(row["role"], ("",))[0]]).strip() for row in rows]
    axes.set_yticks(range(len(rows)), labels=names)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), xticks=(0, 25, 50, 75, 100))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(length=0, colors=INK)
    axes.tick_params(axis="x", colors=MUTED, labelsize=7)
    told = [" ".join(MARKS[role]) for role in dict.fromkeys(row["role"] for row in rows) if role in MARKS]
    axes.figure.text(0.015, 0.02, "|  chance", fontsize=6.5, color=WRONG)
    axes.figure.text(0.08, 0.02, "    ".join(told), fontsize=6.5, color=MUTED)


def _pictures(figure: Figure, record: Record) -> None:
    """One column a style, the unseen ones where there are any: the first pictures of each, unchosen."""
    by_set = shown_examples(record)["sets"]
    roles = {name: row.get("role") for name, row in record.sets().items()}
    unseen = [item for item in by_set if roles.get(item[0]) == "shift"]
    width, height = 0.545 / COLUMNS, 0.96 / ROWS
    for column, (name, cards) in enumerate((unseen or by_set)[:COLUMNS]):
        left = 0.45 + width * column
        figure.text(left + width / 2, 0.945, _short(str(name), 21), ha="center", fontsize=6, color=MUTED)
        whole = [card for card in cards if card["bars"] and picture(card["image"])]
        for row, card in enumerate(whole[:ROWS]):
            bottom = 0.93 - height * (row + 1) * 0.97
            _picture(figure.add_axes((left + 0.016, bottom + 0.115, width - 0.032, height - 0.135)), card)


def _picture(axes: Axes, card: dict[str, Any]) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(card["image"]))) as image:
        axes.imshow(image.convert("RGB"))
    axes.set_axis_off()
    (name, share, _), right = card["bars"][0], card["right"]
    told = f"{percent(share, 0)} %" if right else f"is {_short(str(card['label']), 17)}"
    style: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "top"}
    guess = f"{'✓' if right else '✗'} {_short(str(name), 14)}"
    axes.text(0.5, -0.04, guess, fontsize=7, color=ACCENT if right else WRONG, **style)
    axes.text(0.5, -0.21, told, fontsize=6, color=MUTED, **style)


def _short(text: str, length: int) -> str:
    text = one_line(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def draw_similarity(axes: Axes, matrix: Tensor, rows: Sequence[str], columns: Sequence[str]) -> None:
    """A cosine matrix [N, M] as a heat map with the cosines' own scale beside it."""
    image = axes.imshow(matrix.numpy(), cmap="viridis")
    axes.set_xticks(range(len(columns)), labels=columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), labels=rows)
    axes.figure.colorbar(image, ax=axes, label="cosine", shrink=0.8)


def draw_map(axes: Axes, points: Tensor, groups: Sequence[str], explained: Tensor) -> None:
    """Points [N, 2], coloured and marked by group, with the share of variance of each axis."""
    markers = "osD^vP*X<>"
    for i, group in enumerate(dict.fromkeys(groups)):
        rows = [row for row, name in enumerate(groups) if name == group]
        x, y = points[rows].T.numpy()
        axes.scatter(x, y, s=18, alpha=0.75, label=group, color=f"C{i % 10}", marker=markers[i % 10])
    axes.set_xlabel(f"component 1 ({explained[0]:.0%} of variance)")
    axes.set_ylabel(f"component 2 ({explained[1]:.0%})")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
