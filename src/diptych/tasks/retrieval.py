"""`task=retrieval`: recall@k between pictures and their captions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from diptych.data.sets.evalset import EvalSet
from diptych.model.encode import Encoded, caption_recall, encode_set
from diptych.model.load import Loaded
from diptych.report.formats import count, mapping, mean, numbers
from diptych.report.record import Record, merge_metrics
from diptych.report.section import Headline, TaskPage, share


def write_retrieval(out: Path, loaded: Loaded, sets: Sequence[EvalSet]) -> dict[str, Any]:
    """Recall@k between pictures and their captions, into `out/metrics.json`. Sets without captions are named."""
    recalls = {evalset.name: recall_of(loaded, evalset) for evalset in sets}
    return merge_metrics(out / "metrics.json", {"retrieval": recalls})


def recall_of(loaded: Loaded, evalset: EvalSet, encoded: Encoded | None = None) -> dict[str, Any]:
    """Recall of a set, or why there is none. encoded: its pictures' features, where they are known already"""
    found = encoded or encode_set(loaded.model, evalset)
    reasons = {**evalset.skipped, **found.skipped}  # of the set's reader, and of reading its pictures
    every = (evalset.skipped, found.skipped)
    skipped = {why: len({key for of in every for key in of.get(why, ())}) for why in reasons}
    counted = {"skipped": skipped} if skipped else {}
    if not loaded.model.reads_sentences:
        return {"not_computed": "the model reads class names alone, no captions"} | counted
    if not all(found.captions):
        none = found.captions.count("")
        return {"not_computed": f"{none} of {len(found.captions)} pictures have no caption"} | counted
    return caption_recall(loaded.model, loaded.tokenizer, found.features, found.captions) | counted


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    return "\n".join(lines(metrics))


def lines(metrics: dict[str, Any], but: Collection[str] = ()) -> list[str]:
    """The table's lines. but: sets that are left out unless their recall was not computed"""
    found = []
    for name, row in metrics.get("retrieval", {}).items():
        if "not_computed" in row:
            found.append(f"retrieval {name}: not computed, {row['not_computed']}")
        elif name not in but:
            found += [f"skipped in {name}: {n} × {why}" for why, n in row.get("skipped", {}).items()]
            for title, key in (("text→image", "text_to_image"), ("image→text", "image_to_text")):
                shares = "  ".join(f"{k} {share:.1%}" for k, share in row[key].items())
                found.append(f"{name:<24}{title}  {shares}  median rank {row['median_rank'][key]:g}")
    return found


def _headline(record: Record) -> Headline:
    rows = [mapping(row) for row in mapping(record.metrics.get("retrieval")).values()]
    known = numbers(mapping(row.get("text_to_image")).get("R@1") for row in rows)
    where = f"mean of {len(known)} sets" if len(known) > 1 else f"{count(rows[0].get('n'))} pictures" if rows else ""
    return share(mean(known), f"recall@1 from text to image, {where}.")


PAGE = TaskPage("retrieval evaluation", _headline)  # its section is the report's own
