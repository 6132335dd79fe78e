"""`task=robustness`: one zero-shot model beside a supervised baseline, Visual N-Grams and its own linear probe.

It is the comparison of the CLIP paper's section 3.3, and its table of views of ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.probe import LinearProbe, columns, fit_probe
from diptych.evaluation.robustness import effective_robustness_interval, interval
from diptych.evaluation.zeroshot import hits, zero_shot_classifier
from diptych.launch.sharing import place
from diptych.model.encode import Encoded, classified, encode_set, readable
from diptych.model.load import Loaded, load
from diptych.tasks.probe import describe
from diptych.tasks.zeroshot import merge_metrics

COLUMNS = ("supervised", "visual_ngrams", "zeroshot", "linear_probe")
Hits = Tensor | str
"""bool [N], whether each picture's first class is the true one; or why that can't be had."""


def write_robustness(
    out: Path,
    loaded: Loaded,
    sets: Sequence[EvalSet],
    supervised: str | None,
    ngrams: str | None,
    train: EvalSet | None,
    seed: int,
) -> dict[str, Any]:
    """The table of all sets and columns with 95 % intervals, into `out/metrics.json`: "robustness" by set,
    "robustness_mean" of the shifts, "robustness_how" what the columns are.

    supervised, ngrams: run folders of the baselines; train: labelled pictures for the linear probe; None leaves a
    column empty, and the table says so. Raises UserError where a folder holds no model, or there is no set.
    """
    sets = classified(sets, "robustness")
    encoded = {evalset.name: encode_set(loaded.model, evalset) for evalset in sets}
    probe = None if train is None else _probe(loaded, train, seed)
    by_column: dict[str, Callable[[EvalSet], Hits]] = {
        "supervised": _of_baseline(supervised, "task.supervised"),
        "visual_ngrams": _of_baseline(ngrams, "task.ngrams"),
        "zeroshot": lambda evalset: _zero_shot(loaded, evalset, encoded[evalset.name]),
        "linear_probe": lambda evalset: _probed(probe, train, evalset, encoded[evalset.name]),
    }
    every = {evalset.name: {name: column(evalset) for name, column in by_column.items()} for evalset in sets}
    usual = next((evalset for evalset in sets if evalset.role == "validation"), None)
    rows = {evalset.name: _row(evalset, every[evalset.name], usual, every, seed) for evalset in sets}
    metrics = {
        "robustness": rows,
        "robustness_mean": _mean(
            [every[each.name] for each in sets if each.role == "shift"], every[usual.name] if usual else None, seed
        ),
        "robustness_how": {
            "usual": usual.name if usual else None,
            "line": "slope 1 in logits through the supervised baseline",
            "linear_probe": _described(probe, train),
        },
    }
    return merge_metrics(out / "metrics.json", metrics)


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    titles = "".join(f"{title:>12}" for title in ("supervised", "n-grams", "zero-shot", "probe"))
    lines = [f"{'robustness, top-1':<24}{'n':>6}{titles}{'zero-shot − supervised':>26}"]
    rows = dict(metrics["robustness"])
    if metrics["robustness_mean"]:
        rows["mean of the shifts"] = metrics["robustness_mean"]
    for name, row in rows.items():
        cells = "".join(f"{row[each]:>12.1%}" if row[each] is not None else f"{'–':>12}" for each in COLUMNS)
        ends = row["intervals"]["difference"]
        gain = f"{row['difference']:>+10.1%} ({ends[0]:+.1%} … {ends[1]:+.1%})" if ends else ""
        lines.append(f"{name:<24}{row['n']:>6}{cells}{gain:>26}")
    effective = [(name, row) for name, row in rows.items() if row["effective_robustness"] is not None]
    if effective:
        lines.append("effective robustness of zero-shot, in points of top-1")
    for name, row in effective:
        low, high = row["intervals"]["effective_robustness"]
        lines.append(f"{name:<24}{row['effective_robustness']:>+18.1%} ({low:+.1%} … {high:+.1%})")
    for why in dict.fromkeys(why for row in metrics["robustness"].values() for why in row["not_computed"].values()):
        lines.append(f"–: {why}")
    return "\n".join(lines)


def _of_baseline(path: str | None, key: str) -> Callable[[EvalSet], Hits]:
    if path is None:
        return lambda evalset: f"{key}= names no run"
    baseline = load(path)
    place(baseline.model)

    def answers(evalset: EvalSet) -> Hits:
        found, why = readable(baseline.model, [evalset])
        if not found:
            return f"{evalset.name} for {key}: {why[evalset.name]}"
        return _zero_shot(baseline, found[0], encode_set(baseline.model, evalset))

    return answers


def _zero_shot(loaded: Loaded, evalset: EvalSet, encoded: Encoded) -> Tensor:
    classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, evalset.classnames, evalset.templates)
    return hits(encoded.features, classifier.cpu(), encoded.labels)


def _probe(loaded: Loaded, train: EvalSet, seed: int) -> LinearProbe:
    encoded = encode_set(loaded.model, train)
    return fit_probe(encoded.features, encoded.labels, len(train.classnames), seed)


def _probed(probe: LinearProbe | None, train: EvalSet | None, evalset: EvalSet, encoded: Encoded) -> Hits:
    if probe is None or train is None:
        return "data.labelled= gives no labelled training pictures"
    asked = columns(train.classnames, evalset.classnames)
    if asked is None:
        return f"the labelled training pictures are of other classes than {evalset.name}"
    return probe.scores(encoded.features)[:, asked].argmax(dim=1) == encoded.labels


def _described(probe: LinearProbe | None, train: EvalSet | None) -> dict[str, Any] | None:
    if probe is None or train is None:
        return None
    counts = torch.bincount(torch.tensor([label for _, _, label, _ in train.items]), minlength=len(train.classnames))
    return describe(probe, train, counts.tolist())


def _row(
    evalset: EvalSet, own: dict[str, Hits], usual: EvalSet | None, every: dict[str, dict[str, Hits]], seed: int
) -> dict[str, Any]:
    row = _cells([own], seed)
    row |= {"role": evalset.role, "not_computed": {name: why for name, why in own.items() if isinstance(why, str)}}
    return _with_effective(row, [own], None if usual is None or usual is evalset else every[usual.name], seed)


def _mean(sets: list[dict[str, Hits]], usual: dict[str, Hits] | None, seed: int) -> dict[str, Any] | None:
    return _with_effective(_cells(sets, seed), sets, usual, seed) if sets else None


def _with_effective(
    row: dict[str, Any], sets: list[dict[str, Hits]], usual: dict[str, Hits] | None, seed: int
) -> dict[str, Any]:
    """A row with its effective robustness and the interval of that; None of both where one lacks what it needs."""
    pairs = [None if each is None else _paired(each) for each in (usual, *sets)]
    known = [each for each in pairs if each is not None]
    if len(known) < len(pairs):
        row["effective_robustness"] = row["intervals"]["effective_robustness"] = None
    else:
        row["effective_robustness"], ends = effective_robustness_interval(known[0], known[1:], seed)
        row["intervals"]["effective_robustness"] = list(ends)
    return row


def _paired(hits: dict[str, Hits]) -> Tensor | None:
    """bool [N, 2], whether the zero-shot model and the supervised baseline are right"""
    ours, theirs = hits["zeroshot"], hits["supervised"]
    return torch.stack([ours, theirs], dim=1) if isinstance(ours, Tensor) and isinstance(theirs, Tensor) else None


def _cells(sets: list[dict[str, Hits]], seed: int) -> dict[str, Any]:
    """Of one set, or the mean of several: columns' accuracies, the difference, intervals; None where one lacks it."""
    found: dict[str, list[Tensor]] = {}
    for name in COLUMNS:
        tensors = [each.double() for hit in sets if isinstance(each := hit[name], Tensor)]
        if len(tensors) == len(sets):
            found[name] = tensors
    if {"zeroshot", "supervised"} <= found.keys():
        pairs = zip(found["zeroshot"], found["supervised"], strict=True)
        found["difference"] = [ours - theirs for ours, theirs in pairs]
    every = (*COLUMNS, "difference")
    shares = {name: sum(map(_share, found[name])) / len(sets) if name in found else None for name in every}
    ends = {name: list(interval(found[name], seed)) if name in found else None for name in every}
    n = sum(len(each) for each in found["zeroshot"])
    return {**shares, "n": n, "interval": ends["zeroshot"], "intervals": ends}


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
