"""The report's section on where a step's time goes, from profile.json; nothing in it trusted."""

from __future__ import annotations

import math
from typing import Any

from diptych.report.formats import number
from diptych.report.record import Record, mapping


def profiled(record: Record) -> dict[str, Any]:
    """Rows of parts and of operations; empty where nothing was measured."""
    told = record.profile
    whole = number(told.get("seconds"))
    parts = {str(name): number(seconds) for name, seconds in mapping(told.get("parts")).items()}
    if math.isnan(whole) or whole <= 0 or not parts:
        return {}
    most = max((seconds for seconds in parts.values() if not math.isnan(seconds)), default=whole)
    rows = [
        {"name": name, "ms": 1000 * seconds, "share": seconds / whole, "length": seconds / most}
        for name, seconds in parts.items()
        if seconds > 0
    ]
    found = told.get("operations")
    operations = [mapping(operation) for operation in found] if isinstance(found, list) else []
    exchanged = number(told.get("communication"))
    return {
        "ms": 1000 * whole,
        "steps": told.get("steps"),
        "after": told.get("after"),
        "rows": rows,
        "operations": [
            {"name": str(each.get("name")), "share": number(each.get("share")), "calls": number(each.get("calls"))}
            for each in operations
        ],
        "communication": 1000 * exchanged if exchanged > 0 else None,
    }
