"""The report's section on prompts, from metrics.json's "prompts": nothing in it trusted."""

from __future__ import annotations

from typing import Any

from diptych.report.curves import Chart, line_chart
from diptych.report.formats import number
from diptych.report.record import Record, mapping

WAYS = {
    "own_templates": "the set's templates",
    "searched": "searched templates",
    "synonyms": "synonyms",
    "learned_context": "learned context",
}


def prompts(record: Record) -> dict[str, Any]:
    """The table's rows, the search's curve, and what was chosen; empty where no prompts were tried."""
    told = mapping(record.metrics.get("prompts"))
    if not told:
        return {}
    search, synonyms, context = (mapping(told.get(key)) for key in ("search", "synonyms", "context"))
    taken = int(number(search.get("taken"))) if isinstance(search.get("taken"), int) else 0
    chosen = [str(each) for each in _list(search.get("chosen"))]
    rows = [_row(str(name), mapping(row)) for name, row in mapping(told.get("sets")).items()]
    losses = [number(loss) for loss in _list(context.get("losses"))]
    charts = [
        _chart("Searched templates: top-1 on the tuning split, %", _list(search.get("accuracy")), 100, "{:.1f} %"),
        _chart("Learned context: loss on the tuning split", losses, 1, "{:.3f}"),
    ]
    return {
        "tuned_on": told.get("tuned_on"),
        "ways": list(WAYS.values()),
        "rows": rows,
        "taken": chosen[:taken],
        "candidates": search.get("candidates"),
        "synonyms": synonyms,
        "start": context.get("start"),
        "charts": [chart for chart in charts if chart],
    }


def _row(name: str, row: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for way in WAYS:
        found = mapping(row.get(way))
        low, high = ([number(end) for end in _list(found.get("interval"))] + [float("nan")] * 2)[:2]
        cells.append({"top1": number(found.get("top1")), "gain": number(found.get("gain")), "low": low, "high": high})
    plain = number(mapping(row.get("plain")).get("top1"))
    return {"name": name, "n": row.get("n"), "tuned": row.get("tuned_here") is True, "plain": plain, "cells": cells}


def _chart(title: str, values: list[Any], factor: float, form: str) -> Chart | None:
    points = [factor * number(value) for value in values]
    return line_chart(title, {"": (list(range(1, len(points) + 1)), points)}, form) if points else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
