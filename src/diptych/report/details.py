"""The report's section on errors, from details.json: calibration, classes, confusions; nothing in it trusted."""

from __future__ import annotations

from typing import Any

from diptych.report.curves import Axis, Chart, line_chart
from diptych.report.formats import number
from diptych.report.record import Record, mapping

CLASSES = 10
"""Worst classes that are listed; a class of fewer pictures than LEAST says nothing."""
LEAST = 2


def details(record: Record) -> list[dict[str, Any]]:
    """Of each set that has any: its reliability diagram, expected calibration error, worst classes and confusions."""
    found = []
    for name, told in record.details.items():
        row = mapping(told)
        chart = _reliability(str(name), row)
        if chart is not None:
            ece = number(record.sets().get(str(name), {}).get("ece"))
            shown = [mapping(each) for each in _list(row.get("confusions"))]
            found.append({"name": name, "ece": ece, "chart": chart, "classes": _worst(row), "confusions": shown})
    return found


def _reliability(name: str, row: dict[str, Any]) -> Chart | None:
    """Accuracy by confidence, in %, and the diagonal on which a model says how often it is right."""
    bins = [mapping(each) for each in _list(row.get("bins")) if number(mapping(each).get("n")) > 0]
    if not bins:
        return None
    points = [(round(100 * number(each.get("confidence"))), 100 * number(each.get("accuracy"))) for each in bins]
    lines = {
        "measured": ([x for x, _ in points], [y for _, y in points]),
        "calibrated": ([0, 100], [0.0, 100.0]),
    }
    notes = [f"{number(each.get('n')):,.0f}" for each in bins]
    axis = Axis("probability of the answer, %", "answers that are right, %", notes=notes)
    return line_chart(f"Reliability, {name}", lines, "{:.0f} %", axis)


def _worst(row: dict[str, Any]) -> dict[str, Any]:
    """The classes that are read worst, and how many are read always and never, of those with enough pictures."""
    classes = []
    for each in _list(row.get("per_class")):
        if isinstance(each, list) and len(each) == 3 and number(each[2]) >= LEAST:
            classes.append((str(each[0]), number(each[1]) / number(each[2]), int(number(each[2]))))
    ranked = sorted(classes, key=lambda each: (each[1], -each[2], each[0]))
    never, always = (sum(share == end for _, share, _ in classes) for end in (0, 1))
    return {"n": len(classes), "never": never, "always": always, "worst": ranked[:CLASSES]}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
