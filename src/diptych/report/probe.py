"""The report's section on probes, from metrics.json's "probe": nothing in it trusted."""

from __future__ import annotations

from typing import Any

from diptych.report.formats import number
from diptych.report.record import Record, mapping


def probe(record: Record) -> dict[str, Any]:
    """The table's rows and how the probe was fitted; empty where none was."""
    told = mapping(record.metrics.get("probe"))
    if not told:
        return {}
    rows = []
    for name, values in told.items():
        row = mapping(values)
        ends = row.get("interval")
        low, high = map(number, ends) if isinstance(ends, list) and len(ends) == 2 else (number(None), number(None))
        shown = {key: row.get(key) for key in ("n", "zeroshot", "knn", "linear_probe", "not_computed")}
        rows.append({"name": str(name), **shown, "low": low, "high": high})
    how = mapping(record.metrics.get("probe_how"))
    empty = how.get("empty_classes")
    return {"rows": rows, "how": how, "empty": empty if isinstance(empty, list) else []}
