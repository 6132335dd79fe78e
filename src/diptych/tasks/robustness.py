"""`task=robustness`: one zero-shot model beside a supervised baseline, Visual N-Grams and its own linear probe.

It is the comparison of the CLIP paper's section 3.3, and its table of views of ImageNet."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.terminal import one_line
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.probe import columns, fit_probe
from diptych.evaluation.robustness import effective_robustness_interval, interval
from diptych.evaluation.zeroshot import hits
from diptych.launch.world import place
from diptych.model.encode import Encoded, classified, encode_set, readable
from diptych.model.load import Loaded, load
from diptych.report.curves import MUTED, RULE, SERIES, inline
from diptych.report.formats import count, decimal, ends, gain, mapping, mean, number, numbers, percent
from diptych.report.record import Record, merge_metrics, read
from diptych.report.section import Drawing, Headline, Row, Section, Table, TaskPage, Text, of_sets, share
from diptych.tasks.probe import describe
from diptych.tasks.zeroshot import classifier_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "supervised": "supervised",
    "visual_ngrams": "Visual N-Grams",
    "zeroshot": "zero-shot CLIP",
    "linear_probe": "linear probe of CLIP",
}
COLOURS = ["#9a3d20", "#8a8378", "#2f4f9e", "#3c7d5a"]
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

Hits = Tensor | str
"""bool [N], whether each picture's first class is the true one; or why that is not known."""


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
    column empty, and the table says so. Raises UserError where a folder has no model, or there is no set.
    """
    sets = classified(sets, "robustness")
    encoded = {evalset.name: encode_set(loaded.model, evalset) for evalset in sets}
    probed, how = _probe(loaded, train, seed)
    by_column: dict[str, Callable[[EvalSet], Hits]] = {
        "supervised": _baseline(supervised, "task.supervised"),
        "visual_ngrams": _baseline(ngrams, "task.ngrams"),
        "zeroshot": lambda evalset: _zero_shot(loaded, evalset, encoded[evalset.name]),
        "linear_probe": lambda evalset: probed(evalset, encoded[evalset.name]),
    }
    every = {evalset.name: {name: column(evalset) for name, column in by_column.items()} for evalset in sets}
    usual = next((evalset.name for evalset in sets if evalset.role == "validation"), "")
    rows = {}
    for evalset in sets:
        own = every[evalset.name]
        told = {
            "role": evalset.role,
            "not_computed": {name: why for name, why in own.items() if isinstance(why, str)},
        }
        rows[evalset.name] = _row([own], None if evalset.name == usual else every.get(usual), seed, told)
    shifts = [every[each.name] for each in sets if each.role == "shift"]
    metrics = {
        "robustness": rows,
        "robustness_mean": _row(shifts, every.get(usual), seed, {}) if shifts else None,
        "robustness_how": {
            "usual": usual or None,
            "line": "slope 1 in logits through the supervised baseline",
            "linear_probe": how,
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
        between = row["intervals"]["difference"]
        more = f"{row['difference']:>+10.1%} ({between[0]:+.1%} … {between[1]:+.1%})" if between else ""
        lines.append(f"{name:<24}{row['n']:>6}{cells}{more:>26}")
    effective = [(name, row) for name, row in rows.items() if row["effective_robustness"] is not None]
    if effective:
        lines.append("effective robustness of zero-shot, in points of top-1")
    for name, row in effective:
        low, high = row["intervals"]["effective_robustness"]
        lines.append(f"{name:<24}{row['effective_robustness']:>+18.1%} ({low:+.1%} … {high:+.1%})")
    for why in dict.fromkeys(why for row in metrics["robustness"].values() for why in row["not_computed"].values()):
        lines.append(f"–: {why}")
    return "\n".join(lines)


def _baseline(path: str | None, key: str) -> Callable[[EvalSet], Hits]:
    """key: of the config, which names the baseline's run folder"""
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
    return hits(encoded.features, classifier_of(loaded, evalset), encoded.labels)


def _probe(
    loaded: Loaded, train: EvalSet | None, seed: int
) -> tuple[Callable[[EvalSet, Encoded], Hits], dict[str, Any] | None]:
    """The linear probe's answers to a set, and how it was fitted."""
    if train is None:
        return lambda evalset, encoded: "data.labelled= gives no labelled training pictures", None
    labelled = encode_set(loaded.model, train)
    probe = fit_probe(labelled.features, labelled.labels, len(train.classnames), seed)

    def answers(evalset: EvalSet, encoded: Encoded) -> Hits:
        asked = columns(train.classnames, evalset.classnames)
        if asked is None:
            return f"the labelled training pictures are of other classes than {evalset.name}"
        return probe.scores(encoded.features)[:, asked].argmax(dim=1) == encoded.labels

    return answers, describe(probe, train, labelled.labels)


def _row(
    sets: list[dict[str, Hits]], usual: dict[str, Hits] | None, seed: int, told: dict[str, Any]
) -> dict[str, Any]:
    """Of one set, or the mean of several: accuracy by column, the difference, effective robustness, and intervals;
    None where a set lacks what that needs. usual: the set from which accuracies are expected; told: more of the
    row"""
    found: dict[str, list[Tensor]] = {}
    for name in COLUMNS:
        tensors = [right.double() for own in sets if isinstance(right := own[name], Tensor)]
        if len(tensors) == len(sets):
            found[name] = tensors
    if {"zeroshot", "supervised"} <= found.keys():
        found["difference"] = [a - b for a, b in zip(found["zeroshot"], found["supervised"], strict=True)]
    every = (*COLUMNS, "difference")
    row: dict[str, Any] = {
        name: sum(right.mean().item() for right in found[name]) / len(sets) if name in found else None
        for name in every
    }
    intervals: dict[str, Any] = {name: list(interval(found[name], seed)) if name in found else None for name in every}
    row |= {"n": sum(map(len, found["zeroshot"])), "interval": intervals["zeroshot"], "intervals": intervals, **told}
    pairs = [None if own is None else _paired(own) for own in (usual, *sets)]
    known = [pair for pair in pairs if pair is not None]
    row["effective_robustness"] = intervals["effective_robustness"] = None
    if len(known) == len(pairs):
        row["effective_robustness"], between = effective_robustness_interval(known[0], known[1:], seed)
        intervals["effective_robustness"] = list(between)
    return row


def _paired(own: dict[str, Hits]) -> Tensor | None:
    """bool [N, 2], whether the zero-shot model and the supervised baseline are right"""
    ours, theirs = own["zeroshot"], own["supervised"]
    return torch.stack([ours, theirs], dim=1) if isinstance(ours, Tensor) and isinstance(theirs, Tensor) else None


def _headline(record: Record) -> Headline:
    if shifts := mapping(record.metrics.get("robustness_mean")):
        return share(shifts.get("zeroshot"), "mean zero-shot top-1 of the shifts.")
    known = numbers(mapping(row).get("zeroshot") for row in mapping(record.metrics.get("robustness")).values())
    return share(mean(known), f"zero-shot top-1, {of_sets(known)}.")


def _section(record: Record) -> Section | None:
    told = mapping(record.metrics.get("robustness"))
    if not told:
        return None
    how = mapping(record.metrics.get("robustness_how"))
    probe = mapping(how.get("linear_probe"))
    lead = (
        "Top-1 in % with the 95 % interval for other pictures (bootstrap; it says nothing of other seeds). The"
        " difference is zero-shot less supervised, picture by picture; effective robustness is the zero-shot model's"
        f" accuracy on a set less the one that its accuracy on {how.get('usual')} lets expect ({how.get('line', '')};"
        " its interval resamples that set, too)."
    )
    rows = [_shown(name, mapping(row)) for name, row in told.items()]
    if shifts := mapping(record.metrics.get("robustness_mean")):
        rows.append(_shown("mean of the shifts", shifts))
    reasons = {str(why) for row in told.values() for why in mapping(mapping(row).get("not_computed")).values()}
    notes = [Text(f"–: {why}.", "fine") for why in sorted(reasons)]
    if probe:
        fitted = f"The linear probe was fitted to {count(probe.get('pictures'))} labelled training pictures; its C,"
        notes.append(Text(f"{fitted} {decimal(probe.get('c'))}, was chosen on {probe.get('chosen_on', '')}.", "fine"))
    head = ["Set", "Images", *COLUMNS.values(), "difference", "effective robustness"]
    return Section("Robustness", [Text(lead), Table(head, rows), *notes, Drawing(_svg(record))])


def _shown(name: str, row: dict[str, Any]) -> Row:
    intervals = mapping(row.get("intervals"))

    def cell(key: str, form: Callable[[Any], str], between: str) -> str | tuple[str, str]:
        low, high = ends(intervals.get(key))
        shown = form(row.get(key))
        return shown if shown == "–" else (shown, f"{form(low)}{between}{form(high)}")

    cells = [cell(column, percent, "–") for column in COLUMNS]
    gains = [cell(key, gain, " … ") for key in ("difference", "effective_robustness")]
    return Row(name, [count(row.get("n")), *cells, *gains], str(row.get("role") or ""))


def robustness_figure(run_dir: Path, out_png: Path) -> None:
    """Draw 1400 × 700 pixels: shift accuracy against usual accuracy, and set by set. Raises UserError where the
    folder has no robustness in its metrics.json."""
    from matplotlib import rc_context

    record = read(run_dir)
    if not mapping(record.metrics.get("robustness")):
        raise UserError(f"{run_dir}/metrics.json has no robustness: type python src/evaluate.py task=robustness.")
    with rc_context({"font.size": 9, "text.parse_math": False}):
        _figure(record, COLOURS, "#1f1d1a", "#e3dfd7").savefig(out_png, format="png", dpi=200)


def _svg(record: Record) -> str:
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "robustness", "font.size": 9, "text.parse_math": False}):
        buffer = io.StringIO()
        _figure(record, SERIES, MUTED, RULE).savefig(buffer, format="svg", transparent=True)
    return inline(buffer.getvalue(), "Robustness")


def _figure(record: Record, colours: list[str], ink: str, rule: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    told = {str(name): mapping(row) for name, row in mapping(record.metrics.get("robustness")).items()}
    shifts = mapping(record.metrics.get("robustness_mean"))
    usual = told.get(str(mapping(record.metrics.get("robustness_how")).get("usual")), {})
    _scatter(left, usual, shifts, colours, ink, rule)
    handles = [left.plot([], [], color=colour, marker="o", markersize=4)[0] for colour in colours[: len(COLUMNS)]]
    above: dict[str, Any] = {"loc": "outside upper center", "ncols": len(COLUMNS), "frameon": False}
    figure.legend(handles, list(COLUMNS.values()), labelcolor=ink, fontsize=8, **above)
    _sets(right, {name: row for name, row in told.items() if row.get("role") != "unseen"}, colours, ink, rule)
    return figure


def _scatter(
    axes: Axes, usual: dict[str, Any], shifts: dict[str, Any], colours: list[str], ink: str, rule: str
) -> None:
    """Models as points, both axes in logits, with the line on which nothing is lost."""
    points = []
    for (column, label), colour in zip(COLUMNS.items(), colours, strict=False):
        x, y = number(usual.get(column)), number(shifts.get(column))
        if not (0 < x < 1 and 0 < y < 1):
            continue
        points += [x, y]
        spread = [ends(mapping(row.get("intervals")).get(column)) for row in (usual, shifts)]
        bars = [[abs(_logit(at) - _logit(end))] for at, both in zip((x, y), spread, strict=True) for end in both]
        style: dict[str, Any] = {"color": colour, "markersize": 5, "elinewidth": 1, "label": label, "fmt": "o"}
        axes.errorbar(_logit(x), _logit(y), xerr=bars[:2], yerr=bars[2:], **style)
    low, high = (min(points, default=0.1) * 0.8, 1 - (1 - max(points, default=0.9)) * 0.8)
    limits = [_logit(low), _logit(high)]
    axes.plot(limits, limits, color=ink, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    places = [_logit(tick) for tick in ticks]
    axes.set_xticks(places, labels=[f"{100 * tick:g}" for tick in ticks])
    axes.set_yticks(places, labels=[f"{100 * tick:g}" for tick in ticks])
    axes.set(xlim=limits, ylim=limits)
    axes.set_xlabel("top-1 on held-out pictures, %", color=ink)
    axes.set_ylabel("mean top-1 on the shifts, %", color=ink)
    _quiet(axes, ink, rule)


def _sets(axes: Axes, rows: dict[str, dict[str, Any]], colours: list[str], ink: str, rule: str) -> None:
    for line, row in enumerate(rows.values()):
        for offset, (column, colour) in enumerate(zip(COLUMNS, colours, strict=False)):
            top1 = number(row.get(column))
            low, high = ends(mapping(row.get("intervals")).get(column))
            if math.isnan(top1) or math.isnan(low):
                continue
            y = line + 0.18 * (offset - 1.5)
            axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=1)
            axes.plot([100 * top1], [y], color=colour, marker="o", markersize=3.5)
    axes.set_yticks(range(len(rows)), labels=list(map(one_line, rows)))
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 100))
    axes.set_xlabel("top-1, %", color=ink)
    _quiet(axes, ink, rule)


def _quiet(axes: Axes, ink: str, rule: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(rule)
    axes.tick_params(colors=ink, length=0)
    axes.grid(color=rule, linewidth=0.5)
    axes.set_axisbelow(True)


def _logit(top1: float) -> float:
    top1 = min(max(top1, 1e-3), 1 - 1e-3)
    return math.log(top1 / (1 - top1))


PAGE = TaskPage("robustness", _headline, 1, "Robustness", _section)
