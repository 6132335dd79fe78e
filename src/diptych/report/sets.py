"""The report's section on the sets and their prompts, from metrics.json's "sets": nothing in it trusted."""

from __future__ import annotations

from typing import Any

from diptych.report.record import Record, mapping


def sets(record: Record) -> dict[str, Any]:
    """The prompts, each with the sets that were asked with them, and remarks on how sets were read; empty where an
    older version wrote the file."""
    prompts: dict[tuple[str, ...], list[str]] = {}
    remarks: dict[str, list[str]] = {}
    for told in mapping(record.metrics.get("sets")).values():
        for name, facts in mapping(told).items():
            own = mapping(mapping(facts).get("prompts"))
            if own:
                key = tuple(str(own.get(each)) for each in ("from", "count", "sha256", "first"))
                _add(prompts, key, str(name))
            for reason, left in mapping(mapping(facts).get("unused")).items():
                _add(remarks, _unused(str(reason), mapping(left)), str(name))
            said = mapping(facts).get("remarks")
            for remark in said if isinstance(said, list) else ():
                _add(remarks, str(remark), str(name))
    rows = [
        {"sets": names, "from": whose, "count": count, "sha256": digest[:12], "first": first}
        for (whose, count, digest, first), names in prompts.items()
    ]
    told_of = [{"sets": names, "remark": remark} for remark, names in remarks.items()]
    return {"prompts": rows, "remarks": told_of} if rows or told_of else {}


def _add(found: dict[Any, list[str]], key: Any, name: str) -> None:
    names = found.setdefault(key, [])
    if name not in names:
        names.append(name)


def _unused(reason: str, left: dict[str, Any]) -> str:
    names = left.get("names")
    listed = ", ".join(map(str, names[:5])) if isinstance(names, list) else ""
    return f"not used, {reason} ({left.get('n')}): {listed}"
