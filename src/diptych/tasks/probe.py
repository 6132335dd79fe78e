"""`task=probe`: a linear probe and k nearest neighbours on frozen image features, beside zero-shot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diptych.base.errors import UserError
from diptych.base.terminal import counted
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.neighbours import knn
from diptych.evaluation.probe import LinearProbe, columns, fit_probe
from diptych.evaluation.robustness import interval
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.model.encode import classified, encode_set
from diptych.model.load import Loaded
from diptych.tasks.zeroshot import merge_metrics

METHODS = ("zeroshot", "linear_probe", "knn")


def write_probe(
    out: Path, loaded: Loaded, sets: Sequence[EvalSet], train: EvalSet | None, k: int, seed: int
) -> dict[str, Any]:
    """Fit on `train`, test on every set of its classes; into `out/metrics.json`, "probe". k: neighbours that vote
    Raises UserError without labelled training pictures."""
    if train is None:
        raise UserError("task=probe needs labelled training pictures: take a `data` that has data.labelled.")
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
        classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, evalset.classnames, evalset.templates)
        scores = probe.scores(tested.features)[:, asked]
        votes = knn(encoded.features, encoded.labels, tested.features, classes, k)[:, asked]
        rows[evalset.name] = {
            "zeroshot": classify(tested.features, classifier.cpu(), tested.labels)["top1"],
            "linear_probe": (scores.argmax(dim=1) == tested.labels).double().mean().item(),
            "knn": (votes.argmax(dim=1) == tested.labels).double().mean().item(),
            "n": len(tested.labels),
            "interval": list(interval((scores.argmax(dim=1) == tested.labels).double(), seed)),
            "role": evalset.role,
        }
    how = {**describe(probe, train, torch.bincount(encoded.labels, minlength=classes).tolist()), "k": k}
    return merge_metrics(out / "metrics.json", {"probe": rows, "probe_how": how})


def describe(probe: LinearProbe, train: EvalSet, counts: Sequence[int]) -> dict[str, Any]:
    """What a reader needs to know of how a probe was fitted. counts: pictures by class"""
    return {
        "pictures": sum(counts),
        "empty_classes": [name for name, count in zip(train.classnames, counts, strict=True) if not count],
        "skipped": train.skipped,
        "c": probe.c,
        "converged": probe.converged,
        "chosen_on": "a fifth of the training pictures",
        "tried": {f"{c:.4g}": share for c, share in probe.tried.items()},
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
        lines.append("probe: L-BFGS did not converge: the features are badly scaled, or C is at the end of the range")
    if how["empty_classes"]:
        first = ", ".join(how["empty_classes"][:3])
        lines.append(
            f"probe: no training picture of {counted(len(how['empty_classes']), 'class', 'classes')}: {first} …"
        )
    return "\n".join(lines)
