"""The report's section on the embedding space and on duplicates, from metrics.json; nothing in it trusted."""

from __future__ import annotations

from typing import Any

from diptych.report.record import Record, mapping

MEASURES = {
    "alignment": "alignment",
    "uniformity": "uniformity",
    "gap": "modality gap",
    "dimension": "intrinsic dimension",
    "purity": "purity of 5 neighbours",
}


def quality(record: Record) -> dict[str, Any]:
    """The table's rows, and pairs of duplicates by set; empty where nothing was measured."""
    told = mapping(record.metrics.get("quality"))
    if not told:
        return {}
    doubles = mapping(record.metrics.get("duplicates"))
    rows: list[dict[str, Any]] = []
    sets: list[dict[str, Any]] = []
    for name, values in told.items():
        row, twice = mapping(values), mapping(doubles.get(name))
        rows.append({"name": str(name), "values": [row.get(key) for key in MEASURES], "twice": twice})
        pairs = twice.get("pairs")
        if isinstance(pairs, list) and pairs:
            sets.append({"name": str(name), "pairs": [mapping(pair) for pair in pairs], "n": twice.get("left_out")})
    limits = next((twice for each in doubles.values() if "bits" in (twice := mapping(each))), {})
    titles = list(MEASURES.values())
    return {"titles": titles, "rows": rows, "sets": sets, "bits": limits.get("bits"), "cosine": limits.get("cosine")}
