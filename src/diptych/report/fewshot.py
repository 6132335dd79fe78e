"""The report's section on few-shot, from metrics.json's "fewshot": nothing in it trusted."""

from __future__ import annotations

from typing import Any

from diptych.report.curves import Chart, line_chart
from diptych.report.formats import number
from diptych.report.record import Record, mapping

METHODS = {"linear_probe": "linear probe from zero-shot", "cache": "cache (Tip-Adapter)", "ridge": "ridge"}


def fewshot(record: Record) -> dict[str, Any]:
    """A chart a set, the table's rows, and what was not computed; empty where no shots were drawn."""
    told = mapping(record.metrics.get("fewshot"))
    if not told:
        return {}
    sets = {str(name): mapping(row) for name, row in mapping(told.get("sets")).items()}
    shots = sorted(
        {k for row in sets.values() for points in mapping(row.get("curves")).values() for k in _shots(points)}
    )
    charts = [chart for name, row in sets.items() if (chart := _chart(name, row))]
    rows = [line for name, row in sets.items() for line in _rows(name, row, shots)]
    why = [f"{name}, {k} a class: {why}" for name, row in sets.items() for k, why in _missing(row)]
    return {"draws": told.get("draws"), "shots": shots, "charts": charts, "rows": rows, "why": why}


def _chart(name: str, row: dict[str, Any]) -> Chart | None:
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for method, label in METHODS.items():
        points = mapping(mapping(row.get("curves")).get(method))
        ks = _shots(points)
        if ks:
            lines[label] = (ks, [100 * number(mapping(points[str(k)]).get("top1")) for k in ks])
    if not lines:
        return None
    most = max(k for ks, _ in lines.values() for k in ks)
    lines["zero-shot"] = ([0, most], [100 * number(row.get("zeroshot"))] * 2)
    return line_chart(name, lines, "{:.1f} %")


def _rows(name: str, row: dict[str, Any], shots: list[int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for method, label in METHODS.items():
        points = mapping(mapping(row.get("curves")).get(method))
        cells = []
        for k in shots:
            point = mapping(points.get(str(k)))
            ends = point.get("interval")
            high = number(ends[1]) if isinstance(ends, list) and len(ends) == 2 else float("nan")
            share = number(point.get("top1"))
            cells.append({"share": share, "half": high - share})
        first = {
            "name": name,
            "n": row.get("n"),
            "zeroshot": row.get("zeroshot"),
            "shots_from": row.get("shots_from"),
        }
        found.append({**(first if not found else dict.fromkeys(first)), "method": label, "cells": cells})
    return found


def _missing(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(k), str(why)) for k, why in mapping(row.get("not_computed")).items()]


def _shots(points: Any) -> list[int]:
    return sorted(int(k) for k in mapping(points) if str(k).isdecimal())
