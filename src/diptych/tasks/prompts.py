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
from diptych.data.text.tokenizer import Tokenizer
from diptych.evaluation.features import unit
from diptych.evaluation.learned_context import Learned, context_classifier, learn_context
from diptych.evaluation.prompt_search import Search, greedy
from diptych.evaluation.zeroshot import finite_scale, hits, zero_shot_classifier
from diptych.model.encode import Encoded, classified, encode_set
from diptych.model.load import Loaded
from diptych.tasks.zeroshot import merge_metrics
from diptych.towers.clip import CLIP

WAYS = {
    "plain": f'"{PLAIN}"',
    "own_templates": "the set's templates",
    "searched": "searched templates",
    "synonyms": "synonyms",
    "learned_context": "learned context",
}
TUNABLE = ("validation", "train")
"""Roles of the sets that prompts may be tuned on: a test split is not among them."""

Synonyms = Mapping[str, Sequence[str]]


@dataclass
class _Tuned:
    """What was found on the tuning split, applied to any class names."""

    model: CLIP
    tokenizer: Tokenizer
    candidates: list[str]
    search: Search
    rule: str
    synonyms: Synonyms
    context: Learned

    def classifiers(self, evalset: EvalSet) -> dict[str, Tensor | None]:
        """Way -> classifier [C, D]; None where it can't be had for these classes."""
        names = evalset.classnames
        chosen = [self.candidates[t] for t in self.search.chosen[: self.search.best]]
        covered = any(name in self.synonyms for name in names)
        return {
            "plain": zero_shot_classifier(self.model, self.tokenizer, names, [PLAIN]).cpu(),
            "own_templates": zero_shot_classifier(self.model, self.tokenizer, names, evalset.templates).cpu(),
            "searched": zero_shot_classifier(self.model, self.tokenizer, names, chosen).cpu(),
            "synonyms": by_rule(self.model, self.tokenizer, names, self.synonyms, self.rule) if covered else None,
            "learned_context": context_classifier(self.model, self.tokenizer, names, self.context).cpu(),
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
        cells = "".join(f"{row[way]['top1']:>10.1%}" if row[way] else f"{'–':>10}" for way in WAYS)
        mark = "  (tuned here)" if name == told["tuned_on"] else ""
        lines.append(f"{name:<24}{row['role']:<12}{row['n']:>7}{cells}{mark}")
    search = told["search"]
    taken, other = search["chosen"][: search["taken"]], told["synonyms"]
    lines.append(f"searched: of {search['candidates']} templates, {', '.join(map(repr, taken))}")
    lines.append(f"synonyms: {other['rule']}, known for {other['classes']} of {other['of']} classes")
    return "\n".join(lines)


def by_rule(model: CLIP, tokenizer: Tokenizer, names: Sequence[str], synonyms: Synonyms, rule: str) -> Tensor:
    """Classifier [C, D] of names and their synonyms. rule: a key of RULES"""
    rows = []
    for name in names:
        read_as = RULES[rule](name, list(synonyms.get(name, ())))
        each = zero_shot_classifier(model, tokenizer, read_as, [PLAIN]).cpu()
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
    model, tokenizer, names = loaded.model, loaded.tokenizer, tuning.classnames
    scale = finite_scale(model.logit_scale.exp().item())
    pinned = [template for benchmark in candidates for template in benchmarks.templates(benchmark)]
    templates = list(dict.fromkeys([PLAIN, *tuning.templates, *pinned]))
    prompts = torch.stack([zero_shot_classifier(model, tokenizer, names, [each]).cpu() for each in templates])
    search = greedy(encoded.features, encoded.labels, prompts, scale, most)
    rule = "the name alone"
    if synonyms:
        right = {
            each: _right(encoded, by_rule(model, tokenizer, names, synonyms, each)).mean().item() for each in RULES
        }
        rule = max(right, key=lambda each: right[each])  # of equals the first
    if context.get("start") is None:
        context = {**context, "start": _best_words(templates, prompts, encoded)}
    learned = learn_context(model, tokenizer, names, encoded.features, encoded.labels, scale, **context)
    return _Tuned(model, tokenizer, templates, search, rule, synonyms, learned)


def _best_words(templates: list[str], prompts: Tensor, encoded: Encoded) -> str:
    """What stands before the name in the template that reads most by itself, of those where something does. Words
    that a model never read are a start from which a short descent doesn't come away."""
    words = [template.partition("{}")[0].strip() for template in templates]
    right = [hits(encoded.features, classifier, encoded.labels).double().mean().item() for classifier in prompts]
    best = max((place for place, word in enumerate(words) if word), key=lambda place: right[place])
    return words[best]


def _row(
    evalset: EvalSet, encoded: Encoded, classifiers: dict[str, Tensor | None], tuned_here: bool
) -> dict[str, Any]:
    right = {
        way: None if c is None else hits(encoded.features, c, encoded.labels).double()
        for way, c in classifiers.items()
    }
    plain = right["plain"]
    assert plain is not None
    row: dict[str, Any] = {"role": evalset.role, "n": len(plain), "tuned_here": tuned_here}
    for way, each in right.items():
        row[way] = None if each is None else {"top1": each.mean().item(), **_gain(each - plain)}
    return row


def _gain(differences: Tensor) -> dict[str, Any]:
    """Mean of paired differences [N] and its 95 % interval by the normal approximation."""
    gain = differences.mean().item()
    half = 1.959964 * differences.std(correction=0).item() / math.sqrt(len(differences))
    return {"gain": gain, "interval": [gain - half, gain + half]}


def _right(encoded: Encoded, classifier: Tensor) -> Tensor:
    """float64 [N], 1 where the first class is the true one"""
    return hits(encoded.features, classifier, encoded.labels).double()
