"""The report's section on robustness, from metrics.json's "robustness": nothing in it trusted."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.base.errors import UserError
from diptych.base.terminal import one_line
from diptych.report.curves import MUTED, RULE, SERIES, inline
from diptych.report.formats import number
from diptych.report.record import Record, mapping, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "supervised": "supervised",
    "visual_ngrams": "Visual N-Grams",
    "zeroshot": "zero-shot CLIP",
    "linear_probe": "linear probe of CLIP",
}
COLOURS = ["#9a3d20", "#8a8378", "#2f4f9e", "#3c7d5a"]
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def robustness(record: Record) -> dict[str, Any]:
    """The table's rows and mean, what was not computed, and the picture; empty where nothing was compared."""
    told = mapping(record.metrics.get("robustness"))
    if not told:
        return {}
    rows = [_row(str(name), mapping(row)) for name, row in told.items()]
    mean = mapping(record.metrics.get("robustness_mean"))
    why = {str(why) for row in told.values() for why in mapping(mapping(row).get("not_computed")).values()}
    how = mapping(record.metrics.get("robustness_how"))
    return {
        "columns": list(COLUMNS.values()),
        "rows": rows,
        "mean": _row("mean of the shifts", mean) if mean else None,
        "why": sorted(why),
        "how": how,
        "probe": mapping(how.get("linear_probe")),
        "svg": _svg(record),
    }


def robustness_figure(run_dir: Path, out_png: Path) -> None:
    """Draw 1400 × 700 pixels: shift accuracy against usual accuracy, and set by set. Raises UserError where the
    folder has no robustness in its metrics.json."""
    from matplotlib import rc_context

    record = read(run_dir)
    if not mapping(record.metrics.get("robustness")):
        raise UserError(f"{run_dir}/metrics.json holds no robustness: type python src/evaluate.py task=robustness.")
    with rc_context({"font.size": 9, "text.parse_math": False}):
        _figure(record, COLOURS, "#1f1d1a", "#e3dfd7").savefig(out_png, format="png", dpi=200)


def _row(name: str, row: dict[str, Any]) -> dict[str, Any]:
    ends = mapping(row.get("intervals"))
    cells = [{"share": number(row.get(column)), "ends": _ends(ends.get(column))} for column in COLUMNS]
    return {
        "name": name,
        "role": row.get("role"),
        "n": row.get("n"),
        "cells": cells,
        "difference": number(row.get("difference")),
        "ends": _ends(ends.get("difference")),
        "effective": number(row.get("effective_robustness")),
        "effective_ends": _ends(ends.get("effective_robustness")),
    }


def _ends(value: Any) -> tuple[float, float]:
    ends = [number(end) for end in value] if isinstance(value, list) and len(value) == 2 else [math.nan] * 2
    return ends[0], ends[1]


def _svg(record: Record) -> str:
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "robustness", "font.size": 9, "text.parse_math": False}):
        buffer = io.StringIO()
        _figure(record, SERIES, MUTED, RULE).savefig(buffer, format="svg", transparent=True)
    return inline(buffer.getvalue(), "Robustness")


def _figure(record: Record, colours: list[str], ink: str, rule: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    told = {str(name): mapping(row) for name, row in mapping(record.metrics.get("robustness")).items()}
    mean = mapping(record.metrics.get("robustness_mean"))
    usual = told.get(str(mapping(record.metrics.get("robustness_how")).get("usual")), {})
    _scatter(left, usual, mean, colours, ink, rule)
    handles = [left.plot([], [], color=colour, marker="o", markersize=4)[0] for colour in colours[: len(COLUMNS)]]
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": len(COLUMNS), "frameon": False}
    figure.legend(handles, list(COLUMNS.values()), labelcolor=ink, fontsize=8, **place)
    _sets(right, {name: row for name, row in told.items() if row.get("role") != "unseen"}, colours, ink, rule)
    return figure


def _scatter(
    axes: Axes, usual: dict[str, Any], mean: dict[str, Any], colours: list[str], ink: str, rule: str
) -> None:
    """Models as points, both axes in logits, with the line on which nothing is lost."""
    points = []
    for (column, label), colour in zip(COLUMNS.items(), colours, strict=False):
        x, y = number(usual.get(column)), number(mean.get(column))
        if not (0 < x < 1 and 0 < y < 1):
            continue
        points += [x, y]
        spread = [_ends(mapping(row.get("intervals")).get(column)) for row in (usual, mean)]
        bars = [[abs(_logit(at) - _logit(end))] for at, ends in zip((x, y), spread, strict=True) for end in ends]
        style: dict[str, Any] = {"color": colour, "markersize": 5, "elinewidth": 1, "label": label, "fmt": "o"}
        axes.errorbar(_logit(x), _logit(y), xerr=bars[:2], yerr=bars[2:], **style)
    low, high = (min(points, default=0.1) * 0.8, 1 - (1 - max(points, default=0.9)) * 0.8)
    ends = [_logit(low), _logit(high)]
    axes.plot(ends, ends, color=ink, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    places = [_logit(tick) for tick in ticks]
    axes.set_xticks(places, labels=[f"{100 * tick:g}" for tick in ticks])
    axes.set_yticks(places, labels=[f"{100 * tick:g}" for tick in ticks])
    axes.set(xlim=ends, ylim=ends)
    axes.set_xlabel("top-1 on held-out pictures, %", color=ink)
    axes.set_ylabel("mean top-1 on the shifts, %", color=ink)
    _quiet(axes, ink, rule)


def _sets(axes: Axes, rows: dict[str, dict[str, Any]], colours: list[str], ink: str, rule: str) -> None:
    for place, row in enumerate(rows.values()):
        for offset, (column, colour) in enumerate(zip(COLUMNS, colours, strict=False)):
            share = number(row.get(column))
            low, high = _ends(mapping(row.get("intervals")).get(column))
            if math.isnan(share) or math.isnan(low):
                continue
            y = place + 0.18 * (offset - 1.5)
            axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=1)
            axes.plot([100 * share], [y], color=colour, marker="o", markersize=3.5)
    axes.set_yticks(range(len(rows)), labels=list(map(one_line, rows)))
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 100))
    axes.set_xlabel("top-1, %", color=ink)
    _quiet(axes, ink, rule)


def _quiet(axes: Axes, ink: str, rule: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(rule)
    axes.tick_params(colors=ink, length=0)
    axes.grid(color=rule, linewidth=0.5)
    axes.set_axisbelow(True)


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-3)
    return math.log(share / (1 - share))
