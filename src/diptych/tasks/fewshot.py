"""`task=fewshot`: top-1 by the number of labelled pictures a class, beside zero-shot, which needs none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.quantities import Count
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.probe import FEW_SHOT, draw_shots
from diptych.evaluation.zeroshot import classify
from diptych.model.encode import Encoded, classified, encode_set
from diptych.model.load import Loaded
from diptych.report.curves import Chart, line_chart
from diptych.report.formats import ends, mapping, mean, number, numbers, percent
from diptych.report.record import Record, merge_metrics
from diptych.report.section import Charts, Folded, Headline, Row, Section, Table, TaskPage, Text, of_sets, share
from diptych.tasks.zeroshot import classifier_of, scale_of

TITLES = {"linear_probe": "linear probe from zero-shot", "cache": "cache (Tip-Adapter)", "ridge": "ridge"}
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t at 97.5 % by the number of draws."""


@dataclass(frozen=True)
class _Pool:
    """Where shots are drawn from. own: whether it is the tested set itself, which is then tested on its other
    pictures"""

    encoded: Encoded
    name: str
    own: bool

    def tested(self, values: Tensor, rest: Tensor) -> Tensor:
        """Of values of the tested set's pictures those to test on. rest: places of the pictures that are not shots"""
        return values[rest] if self.own else values


def write_fewshot(
    out: Path,
    loaded: Loaded,
    sets: Sequence[EvalSet],
    train: EvalSet | None,
    shots: Sequence[Count],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Curves of every method and set, into `out/metrics.json`, "fewshot".

    train: labelled pictures, from which the sets of the same classes get their shots; a set of other classes gets
        them from its own pictures, and is tested on its others
    shots: numbers of pictures a class; draws: how often they are drawn, for the interval, 2 to 10
    A number of shots that fewer than half the classes have is not computed, and named. Raises UserError for another
    number of draws.
    """
    if draws not in T_975:
        raise UserError(f"task.draws={draws} must be 2 to 10: an interval needs two, and more than ten add nothing.")
    sets = classified(sets, "fewshot")
    given = None if train is None else _Pool(encode_set(loaded.model, train), train.name, own=False)
    curves: dict[str, Any] = {}
    groups: dict[tuple[str, ...], list[EvalSet]] = {}
    for evalset in sets:
        groups.setdefault(tuple(evalset.classnames), []).append(evalset)
    for names, members in groups.items():
        encoded = {each.name: encode_set(loaded.model, each) for each in members}
        if train is not None and given is not None and list(names) == train.classnames:
            curves |= _curves(loaded, members, encoded, given, shots, draws, seed)
        else:
            for each in members:
                pool = _Pool(encoded[each.name], each.name, own=True)
                curves |= _curves(loaded, [each], encoded, pool, shots, draws, seed)
    ordered = {evalset.name: curves[evalset.name] for evalset in sets}
    return merge_metrics(out / "metrics.json", {"fewshot": {"draws": draws, "sets": ordered}})


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    told = metrics["fewshot"]
    lines = [f"{'few-shot, top-1':<22}{'method':<14}{'zero-shot':>10}  by pictures a class ({told['draws']} draws)"]
    for name, row in told["sets"].items():
        for method, points in row["curves"].items():
            cells = "  ".join(
                f"{k}: {p['top1']:.1%} ±{(p['interval'][1] - p['top1']):.1%}" for k, p in points.items()
            )
            lines.append(f"{name:<22}{method:<14}{row['zeroshot']:>10.1%}  {cells}")
        for k, why in row["not_computed"].items():
            lines.append(f"{name:<22}{k} a class: not computed, {why}")
    return "\n".join(lines)


def _curves(
    loaded: Loaded,
    sets: list[EvalSet],
    encoded: dict[str, Encoded],
    pool: _Pool,
    shots: Sequence[int],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Of sets of one list of classes."""
    classes = len(sets[0].classnames)
    classifier, scale = classifier_of(loaded, sets[0]), scale_of(loaded.model)
    why = {k: reason for k in shots if (reason := _refused(pool, k, classes))}
    found: dict[tuple[str, str, int], list[float]] = {}
    used: dict[int, float] = {}
    for k in (each for each in shots if each not in why):
        for draw in range(draws):
            chosen, rest = _split(pool, k, seed + draw)
            used[k] = len(chosen) / classes
            arguments = pool.encoded.features[chosen], pool.encoded.labels[chosen], classifier, scale
            images = torch.cat([pool.tested(encoded[each.name].features, rest) for each in sets])
            labels = [pool.tested(encoded[each.name].labels, rest) for each in sets]
            for method, scores in FEW_SHOT.items():
                said = scores(*arguments, images).argmax(dim=1).split([len(each) for each in labels])
                for each, answers, truth in zip(sets, said, labels, strict=True):
                    found.setdefault((each.name, method, k), []).append((answers == truth).double().mean().item())
    return {
        each.name: {
            "zeroshot": classify(encoded[each.name].features, classifier, encoded[each.name].labels)["top1"],
            "n": len(encoded[each.name].labels),
            "shots_from": pool.name,
            "pictures_a_class": {str(k): mean for k, mean in used.items()},
            "curves": {
                method: {str(k): _point(found[each.name, method, k]) for k in shots if k not in why}
                for method in FEW_SHOT
            },
            "not_computed": {str(k): reason for k, reason in why.items()},
        }
        for each in sets
    }


def _refused(pool: _Pool, k: int, classes: int) -> str | None:
    """Why k shots a class can't be drawn: fewer than half the classes have as many, and one to test on where the pool
    is the tested set."""
    counts = torch.bincount(pool.encoded.labels, minlength=classes)
    enough = int((counts >= k + pool.own).sum())
    if 2 * enough >= classes:
        return None
    return f"{enough} of {classes} classes have {k + pool.own} pictures in {pool.name}"


def _split(pool: _Pool, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the shots, and of the pictures that are left to test on where the pool is the tested set. There a
    class keeps one picture to be tested on."""
    labels = pool.encoded.labels
    chosen = draw_shots(labels, k, seed)
    if pool.own:
        counts = torch.bincount(labels)
        kept = torch.ones(len(chosen), dtype=torch.bool)
        for label in (counts <= k).nonzero().flatten().tolist():
            kept[(labels[chosen] == label).nonzero()[-1]] = False
        chosen = chosen[kept]
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    return chosen, rest.nonzero().flatten()


def _point(shares: list[float]) -> dict[str, Any]:
    """Mean over draws and its 95 % interval by Student's t."""
    values = torch.tensor(shares, dtype=torch.float64)
    top1, half = values.mean().item(), T_975[len(shares)] * values.std().item() / math.sqrt(len(shares))
    return {"top1": top1, "interval": [top1 - half, top1 + half], "draws": shares}


def _headline(record: Record) -> Headline:
    sets = [mapping(row) for row in mapping(mapping(record.metrics.get("fewshot")).get("sets")).values()]
    points = [mapping(mapping(row.get("curves")).get("linear_probe")) for row in sets]
    most = max((k for of in points for k in _shots(of)), default=0)
    shares = numbers(mapping(of[str(most)]).get("top1") for of in points if str(most) in of)
    zeroshot = percent(mean(numbers(row.get("zeroshot") for row in sets)))
    return share(
        mean(shares),
        f"top-1 of a linear probe from {most} labelled pictures a class, {of_sets(shares)}; zero-shot {zeroshot} %.",
    )


def _section(record: Record) -> Section | None:
    told = mapping(record.metrics.get("fewshot"))
    if not told:
        return None
    sets = {name: mapping(row) for name, row in mapping(told.get("sets")).items()}
    shots = sorted(
        {k for row in sets.values() for points in mapping(row.get("curves")).values() for k in _shots(points)}
    )
    lead = (
        f"Top-1 in % by the number of labelled pictures a class, mean of {told.get('draws')} draws with the 95 %"
        " interval over draws; zero-shot needs none. Pictures that shots are drawn from are not tested on."
    )
    charts = [chart for name, row in sets.items() if (chart := _chart(name, row))]
    head = ["Set", "Shots from", "Zero-shot", "Method", *map(str, shots)]
    rows = [line for name, row in sets.items() for line in _rows(name, row, shots)]
    blocks: list[Any] = [Text(lead), Charts(charts), Table(head, rows, "fewshot")]
    why = [
        f"{name}, {k} a class: {why}"
        for name, row in sets.items()
        for k, why in mapping(row.get("not_computed")).items()
    ]
    return Section("Few-shot", [*blocks, Folded("Not computed", why)] if why else blocks)


def _chart(name: str, row: dict[str, Any]) -> Chart | None:
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for method, title in TITLES.items():
        points = mapping(mapping(row.get("curves")).get(method))
        if ks := _shots(points):
            lines[title] = (ks, [100 * number(mapping(points[str(k)]).get("top1")) for k in ks])
    if not lines:
        return None
    most = max(k for ks, _ in lines.values() for k in ks)
    lines["zero-shot"] = ([0, most], [100 * number(row.get("zeroshot"))] * 2)
    return line_chart(name, lines, "{:.1f} %")


def _rows(name: str, row: dict[str, Any], shots: list[int]) -> list[Row]:
    """A line a method, the first of them with what all share."""
    found: list[Row] = []
    for method, title in TITLES.items():
        points = [mapping(mapping(mapping(row.get("curves")).get(method)).get(str(k))) for k in shots]
        cells = [_cell(number(point.get("top1")), ends(point.get("interval"))[1]) for point in points]
        first = (name, str(row.get("shots_from") or ""), percent(row.get("zeroshot"))) if not found else ("", "", "")
        found.append(Row(first[0], [*first[1:], title, *cells]))
    return found


def _cell(top1: float, high: float) -> str | tuple[str, str]:
    return "–" if math.isnan(top1) else (percent(top1), f"±{percent(high - top1)}")


def _shots(points: Any) -> list[int]:
    return sorted(int(k) for k in mapping(points) if str(k).isdecimal())


PAGE = TaskPage("few-shot evaluation", _headline, 3, "Few-shot", _section)
