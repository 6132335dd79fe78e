"""`task=probe`: a linear probe and k nearest neighbours on frozen image features, beside zero-shot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.quantities import Count
from diptych.base.terminal import counted
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.probe import LinearProbe, columns, fit_probe, knn
from diptych.evaluation.robustness import interval
from diptych.evaluation.zeroshot import classify
from diptych.model.encode import classified, encode_set
from diptych.model.load import Loaded
from diptych.report.formats import count, decimal, ends, listed, mapping, mean, numbers, percent
from diptych.report.record import Record, merge_metrics
from diptych.report.section import Headline, Row, Section, Table, TaskPage, Text, of_sets, share
from diptych.tasks.zeroshot import classifier_of


def write_probe(
    out: Path, loaded: Loaded, sets: Sequence[EvalSet], train: EvalSet | None, k: Count, seed: int
) -> dict[str, Any]:
    """Fit on `train`, test on every set of its classes; into `out/metrics.json`, "probe". k: neighbours that vote
    Raises UserError without labelled training pictures."""
    if train is None:
        raise UserError("task=probe needs labelled training pictures: choose a `data` that has data.labelled.")
    sets = classified(sets, "probe")
    encoded = encode_set(loaded.model, train)
    classes = len(train.classnames)
    probe = fit_probe(encoded.features, encoded.labels, classes, seed)
    rows: dict[str, Any] = {}
    for evalset in sets:
        asked = columns(train.classnames, evalset.classnames)
        if asked is None:
            rows[evalset.name] = {"not_computed": "its classes are not those of the labelled training pictures"}
            continue
        tested = encode_set(loaded.model, evalset)
        votes = knn(encoded.features, encoded.labels, tested.features, classes, k)
        probed, near = (
            (scores[:, asked].argmax(dim=1) == tested.labels).double()
            for scores in (probe.scores(tested.features), votes)
        )
        rows[evalset.name] = {
            "zeroshot": classify(tested.features, classifier_of(loaded, evalset), tested.labels)["top1"],
            "linear_probe": probed.mean().item(),
            "knn": near.mean().item(),
            "n": len(tested.labels),
            "interval": list(interval(probed, seed)),
            "role": evalset.role,
        }
    how = {**describe(probe, train, encoded.labels), "k": k}
    return merge_metrics(out / "metrics.json", {"probe": rows, "probe_how": how})


def describe(probe: LinearProbe, train: EvalSet, labels: Tensor) -> dict[str, Any]:
    """What a reader needs to know of how a probe was fitted. labels: of its pictures, int64 [N]"""
    pictures = torch.bincount(labels, minlength=len(train.classnames)).tolist()
    return {
        "pictures": len(labels),
        "empty_classes": [name for name, n in zip(train.classnames, pictures, strict=True) if not n],
        "skipped": train.skipped,
        "c": probe.c,
        "converged": probe.converged,
        "chosen_on": "a fifth of the training pictures",
        "tried": {f"{c:.4g}": accuracy for c, accuracy in probe.tried.items()},
    }


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    lines = [f"{'top-1':<24}{'n':>6}{'zero-shot':>12}{'k-NN':>8}{'probe':>8}{'95 %':>18}"]
    for name, row in metrics["probe"].items():
        if "not_computed" in row:
            lines.append(f"{name:<24}not computed: {row['not_computed']}")
            continue
        low, high = row["interval"]
        shown = f"{row['zeroshot']:>12.1%}{row['knn']:>8.1%}{row['linear_probe']:>8.1%}"
        lines.append(f"{name:<24}{row['n']:>6}{shown}{f'{low:.1%} … {high:.1%}':>18}")
    how = metrics["probe_how"]
    lines.append(f"probe: C = {how['c']:.4g}, chosen on {how['chosen_on']}, fitted to all {how['pictures']:,}")
    if not how["converged"]:
        lines.append("probe: L-BFGS did not converge: the features are badly scaled, or C is at the end of its range")
    if how["empty_classes"]:
        first = ", ".join(how["empty_classes"][:3])
        lines.append(
            f"probe: no training picture of {counted(len(how['empty_classes']), 'class', 'classes')}: {first} …"
        )
    return "\n".join(lines)


def _headline(record: Record) -> Headline:
    known = numbers(mapping(row).get("linear_probe") for row in mapping(record.metrics.get("probe")).values())
    return share(mean(known), f"top-1 of the linear probe, {of_sets(known)}.")


def _section(record: Record) -> Section | None:
    told = mapping(record.metrics.get("probe"))
    if not told:
        return None
    how = mapping(record.metrics.get("probe_how"))
    lead = (
        f"Top-1 in %. The linear probe is logistic regression on frozen image features, fitted to"
        f" {count(how.get('pictures'))} labelled training pictures; its C, {decimal(how.get('c'))}, was chosen on"
        f" {how.get('chosen_on', '')}."
    )
    if how.get("converged") is False:
        lead += " It did not converge."
    lead += f" k-NN lets the {count(how.get('k'))} nearest training pictures vote."
    if empty := listed(how.get("empty_classes")):
        lead += f" Classes without a training picture: {len(empty)}."
    rows = []
    for name, values in told.items():
        row = mapping(values)
        if row.get("not_computed"):
            rows.append(Row(name, why=f"not computed: {row['not_computed']}"))
            continue
        low, high = ends(row.get("interval"))
        probed = (percent(row.get("linear_probe")), f"{percent(low)}–{percent(high)}")
        rows.append(Row(name, [count(row.get("n")), percent(row.get("zeroshot")), percent(row.get("knn")), probed]))
    head = ["Set", "Images", "zero-shot", "k-NN", "linear probe"]
    return Section("Probes", [Text(lead), Table(head, rows)])


PAGE = TaskPage("linear probe", _headline, 2, "Probe", _section)
