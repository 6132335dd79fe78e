"""`task=prompts`: what better prompts gain over "a photo of a {}.", tuned on one split and reported on others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.templates import PLAIN
from diptych.data.sets import benchmarks
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.features import unit
from diptych.evaluation.prompts import Learned, Search, context_classifier, greedy, learn_context
from diptych.evaluation.zeroshot import hits, zero_shot_classifier
from diptych.model.encode import Encoded, classified, encode_set
from diptych.model.load import Loaded
from diptych.report.curves import Chart, line_chart
from diptych.report.formats import count, ends, gain, listed, mapping, mean, number, numbers, percent
from diptych.report.record import Record, merge_metrics
from diptych.report.section import Charts, Headline, Row, Section, Table, TaskPage, Text, of_sets, share
from diptych.tasks.zeroshot import classifier_of, scale_of

WAYS = {
    "own_templates": "the set's templates",
    "searched": "searched templates",
    "synonyms": "synonyms",
    "learned_context": "learned context",
}
"""Prompts that are compared with PLAIN."""
TUNABLE = ("validation", "train")
"""Roles of the sets that prompts may be tuned on: a test split is not one of them."""

Synonyms = Mapping[str, Sequence[str]]


@dataclass
class _Tuned:
    """What was found on the tuning split, for any class names."""

    loaded: Loaded
    candidates: list[str]
    search: Search
    rule: str
    synonyms: Synonyms
    context: Learned

    def classifiers(self, evalset: EvalSet) -> dict[str, Tensor | None]:
        """Way -> classifier [C, D]; None for synonyms where no class has one."""
        names = evalset.classnames
        chosen = [self.candidates[t] for t in self.search.chosen[: self.search.best]]
        covered = any(name in self.synonyms for name in names)
        return {
            "plain": _in_templates(self.loaded, names, [PLAIN]),
            "own_templates": classifier_of(self.loaded, evalset),
            "searched": _in_templates(self.loaded, names, chosen),
            "synonyms": by_rule(self.loaded, names, self.synonyms, self.rule) if covered else None,
            "learned_context": context_classifier(
                self.loaded.model, self.loaded.tokenizer, names, self.context
            ).cpu(),
        }


def write_prompts(
    out: Path,
    loaded: Loaded,
    sets: Sequence[EvalSet],
    candidates: Sequence[str],
    synonyms: Synonyms | None,
    most: int,
    context: dict[str, Any],
) -> dict[str, Any]:
    """Tune on the first set of the role `validation`, report on all others; into `out/metrics.json`, "prompts".

    candidates: benchmarks whose pinned templates are tried beside the tuning set's own
    synonyms: class name -> other names; None for none
    most: templates in the largest ensemble
    context: arguments of `learn_context`; without a start, the words of the best single template
    Raises UserError where no set may be tuned on.
    """
    sets = classified(sets, "prompts")
    tuning = tuning_split(sets)
    encoded = encode_set(loaded.model, tuning)
    tuned = _tune(loaded, tuning, encoded, candidates, synonyms or {}, most, context)
    rows = {}
    for evalset in sets:
        features = encoded if evalset is tuning else encode_set(loaded.model, evalset)
        rows[evalset.name] = _row(evalset, features, tuned.classifiers(evalset), evalset is tuning)
    covered = sum(name in tuned.synonyms for name in tuning.classnames)
    told = {
        "tuned_on": tuning.name,
        "search": {
            "candidates": len(tuned.candidates),
            "chosen": [tuned.candidates[t] for t in tuned.search.chosen],
            "taken": tuned.search.best,
            "accuracy": tuned.search.accuracy,
        },
        "synonyms": {"rule": tuned.rule, "classes": covered, "of": len(tuning.classnames)},
        "context": {"start": tuned.context.start, "losses": tuned.context.losses},
        "sets": rows,
    }
    return merge_metrics(out / "metrics.json", {"prompts": told})


def tuning_split(sets: Sequence[EvalSet]) -> EvalSet:
    """The first set that prompts may be tuned on. Raises UserError where there is none."""
    for evalset in sets:
        if evalset.role in TUNABLE:
            return evalset
    raise UserError(
        f"None of {', '.join(evalset.name for evalset in sets)} has the role validation, and prompts are never tuned"
        ' on a test split: give one the role in sets.json, {"NAME": {"role": "validation"}}.'
    )


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    told = metrics["prompts"]
    titles = ("plain", "own", "searched", "synonyms", "context")
    lines = [f"{'top-1 by prompts':<24}{'role':<12}{'n':>7}" + "".join(f"{title:>10}" for title in titles)]
    for name, row in told["sets"].items():
        cells = "".join(f"{row[way]['top1']:>10.1%}" if row[way] else f"{'–':>10}" for way in ("plain", *WAYS))
        mark = "  (tuned here)" if name == told["tuned_on"] else ""
        lines.append(f"{name:<24}{row['role']:<12}{row['n']:>7}{cells}{mark}")
    search = told["search"]
    taken, other = search["chosen"][: search["taken"]], told["synonyms"]
    lines.append(f"searched: of {search['candidates']} templates, {', '.join(map(repr, taken))}")
    lines.append(f"synonyms: {other['rule']}, known for {other['classes']} of {other['of']} classes")
    return "\n".join(lines)


def by_rule(loaded: Loaded, names: Sequence[str], synonyms: Synonyms, rule: str) -> Tensor:
    """Classifier [C, D] of names and their synonyms. rule: a key of RULES"""
    rows = []
    for name in names:
        each = _in_templates(loaded, RULES[rule](name, list(synonyms.get(name, ()))), [PLAIN])
        rows.append(unit(each.mean(dim=0, keepdim=True), "class embeddings"))
    return torch.cat(rows)


RULES = {
    "the name alone": lambda name, others: [name],
    "a prompt for each name": lambda name, others: [name, *others],
    "all names in one prompt": lambda name, others: [", ".join([name, *others])],
}


def _tune(
    loaded: Loaded,
    tuning: EvalSet,
    encoded: Encoded,
    candidates: Sequence[str],
    synonyms: Synonyms,
    most: int,
    context: dict[str, Any],
) -> _Tuned:
    names, scale = tuning.classnames, scale_of(loaded.model)
    pinned = [template for benchmark in candidates for template in benchmarks.templates(benchmark)]
    templates = list(dict.fromkeys([PLAIN, *tuning.templates, *pinned]))
    prompts = torch.stack([_in_templates(loaded, names, [each]) for each in templates])
    search = greedy(encoded.features, encoded.labels, prompts, scale, most)
    rule = "the name alone"
    if synonyms:
        right = {each: _right(encoded, by_rule(loaded, names, synonyms, each)).mean().item() for each in RULES}
        rule = max(right, key=lambda each: right[each])  # of equals the first
    if context.get("start") is None:
        context = {**context, "start": _best_words(templates, prompts, encoded)}
    learned = learn_context(loaded.model, loaded.tokenizer, names, encoded.features, encoded.labels, scale, **context)
    return _Tuned(loaded, templates, search, rule, synonyms, learned)


def _in_templates(loaded: Loaded, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    return zero_shot_classifier(loaded.model, loaded.tokenizer, names, templates).cpu()


def _best_words(templates: list[str], prompts: Tensor, encoded: Encoded) -> str:
    """The words before the name in the template that is most accurate by itself, of those that have some. From words
    that the model never saw in training a short descent doesn't get far."""
    words = [template.partition("{}")[0].strip() for template in templates]
    right = [_right(encoded, classifier).mean().item() for classifier in prompts]
    best = max((place for place, word in enumerate(words) if word), key=lambda place: right[place])
    return words[best]


def _row(
    evalset: EvalSet, encoded: Encoded, classifiers: dict[str, Tensor | None], tuned_here: bool
) -> dict[str, Any]:
    right = {way: None if c is None else _right(encoded, c) for way, c in classifiers.items()}
    plain = right["plain"]
    assert plain is not None
    row: dict[str, Any] = {"role": evalset.role, "n": len(plain), "tuned_here": tuned_here}
    for way, each in right.items():
        row[way] = None if each is None else {"top1": each.mean().item(), **_gain(each - plain)}
    return row


def _gain(differences: Tensor) -> dict[str, Any]:
    """Mean of paired differences [N] and its 95 % interval by the normal approximation."""
    middle = differences.mean().item()
    half = 1.959964 * differences.std(correction=0).item() / math.sqrt(len(differences))
    return {"gain": middle, "interval": [middle - half, middle + half]}


def _right(encoded: Encoded, classifier: Tensor) -> Tensor:
    """float64 [N], 1 where the first class is the true one"""
    return hits(encoded.features, classifier, encoded.labels).double()


def _headline(record: Record) -> Headline:
    rows = [mapping(row) for row in mapping(mapping(record.metrics.get("prompts")).get("sets")).values()]
    rows = [row for row in rows if row.get("tuned_here") is not True] or rows
    known = numbers(mapping(row.get("searched")).get("top1") for row in rows)
    plain = mean(numbers(mapping(row.get("plain")).get("top1") for row in rows))
    return share(mean(known), f"top-1 with the searched templates, {of_sets(known)}; plain {percent(plain)} %.")


def _section(record: Record) -> Section | None:
    from markupsafe import Markup

    told = mapping(record.metrics.get("prompts"))
    if not told:
        return None
    search, synonyms, context = (mapping(told.get(key)) for key in ("search", "synonyms", "context"))
    lead = Markup(
        "Top-1 in % with <q>{}</q>, and what other prompts gain over it in points, with the paired 95 %"
        " interval. Everything was tuned on {}; its own row shows what tuning can do to the set it was done on."
    ).format(PLAIN, told.get("tuned_on"))
    rows = [_shown(name, mapping(row)) for name, row in mapping(told.get("sets")).items()]
    taken = search["taken"] if isinstance(search.get("taken"), int) else 0
    quoted = Markup(", ").join(Markup("<q>{}</q>").format(each) for each in listed(search.get("chosen"))[:taken])
    found = Markup(
        "Templates taken, of {}: {}. Synonyms: {}, known for {} of {} classes. The context began as <q>{}</q>."
    ).format(
        count(search.get("candidates")),
        quoted,
        synonyms.get("rule", ""),
        count(synonyms.get("classes")),
        count(synonyms.get("of")),
        context.get("start"),
    )
    accuracy = [100 * number(value) for value in listed(search.get("accuracy"))]
    losses = [number(value) for value in listed(context.get("losses"))]
    charts = [
        *_chart("Searched templates: top-1 on the tuning split, %", accuracy, "{:.1f} %"),
        *_chart("Learned context: loss on the tuning split", losses, "{:.3f}"),
    ]
    head = ["Set", "Images", "Plain", *WAYS.values()]
    return Section("Prompts", [Text(lead), Table(head, rows), Text(found), Charts(charts)])


def _shown(name: str, row: dict[str, Any]) -> Row:
    cells: list[Any] = [count(row.get("n")), percent(mapping(row.get("plain")).get("top1"))]
    for way in WAYS:
        found = mapping(row.get(way))
        low, high = ends(found.get("interval"))
        known = gain(found.get("gain")) != "–"
        cells.append((gain(found["gain"]), f"{gain(low)} … {gain(high)}") if known else "–")
    return Row(name, cells, "tuned on it" if row.get("tuned_here") is True else "")


def _chart(title: str, points: list[float], form: str) -> list[Chart]:
    """One, or none without points."""
    return [line_chart(title, {"": (list(range(1, len(points) + 1)), points)}, form)] if points else []


PAGE = TaskPage("search for prompts", _headline, 4, "Prompts", _section)
