"""Which prompts evaluation sets are asked with, and what a reader must know of how the sets were read.

The same pictures, classes and weights give another accuracy with other prompts, so every set knows whose its
templates are, and every table says it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diptych.base.errors import UserError
from diptych.base.templates import CLIPS, PLAIN, RUNS, canonical, read_templates
from diptych.base.terminal import counted
from diptych.data.io.address import printable
from diptych.data.sets import benchmarks
from diptych.data.sets.class_folders import some
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.imagenet import IMAGENET
from diptych.data.text.seen_words import SeenWords, read_record
from diptych.data.text.tokenizer import Tokenizer
from diptych.evaluation.prompts import fill
from diptych.model.encode import readable
from diptych.model.load import Loaded
from diptych.tasks.zeroshot import merge_metrics

SHOWN = 20  # names of unused files that metrics.json holds for each reason, beside their number
CHOICES = "run, simple, imagenet, a file, or a list"


def chosen(choice: str | Sequence[str] | None) -> str | list[str] | None:
    """`data.templates=` as it was given -> "run", None for the usual, or the templates themselves.

    Raises UserError for a file that is missing, and for templates without a placeholder.
    """
    if choice is None or choice == "run":
        return choice
    if choice == "simple":
        return [PLAIN]
    if choice == "imagenet":
        return benchmarks.templates(IMAGENET)
    if isinstance(choice, str):
        if not choice or not Path(choice).exists():
            raise UserError(f"data.templates={choice} is no file: give {CHOICES} of templates.")
        return read_templates(choice)
    if not isinstance(choice, Sequence) or not choice or not all(isinstance(each, str) for each in choice):
        raise UserError(f"data.templates={choice!r} is none of {CHOICES} of templates.")
    return [canonical(each, "data.templates") for each in choice]


def with_templates(
    sets: Sequence[EvalSet], choice: str | Sequence[str] | None, run: Sequence[str] = ()
) -> list[EvalSet]:
    """The sets with the templates that they are asked with: a set's own; where it has none the run's, where it has
    any; else CLIP's "a photo of a {}.".

    choice: of `data.templates`, for all sets with classes; run: the templates that the model was validated with
    Raises UserError for `run` where the run has none.
    """
    taken = chosen(choice)
    if taken == "run" and not run:
        raise UserError(
            "data.templates=run, but the checkpoint remembers no templates: it was validated on no set with some, or"
            " is not from a run of this version. Take simple, imagenet, a file, or a list."
        )
    if isinstance(taken, list):
        names = {"simple": CLIPS, "imagenet": "CLIP's for ImageNet"}
        whose = names.get(str(choice), "data.templates")
        return [replace(each, templates=taken, prompts=whose) if each.classnames else each for each in sets]
    return [
        replace(each, templates=list(run), prompts=RUNS)
        if each.classnames and run and (taken == "run" or each.prompts == CLIPS)
        else each
        for each in sets
    ]


def to_remember(sets: Sequence[EvalSet]) -> list[str]:
    """The templates that a run is validated with: those of its first set of the role `validation` that has some of
    its own, else of the first set that has."""
    own = [each for each in sets if each.classnames and each.templates and each.prompts != CLIPS]
    best = next((each for each in own if each.role == "validation"), own[0] if own else None)
    return [] if best is None else list(best.templates)


def about(
    loaded: Loaded, sets: Sequence[EvalSet], train: EvalSet | None = None, prompts: bool = True
) -> dict[str, Any]:
    """What `metrics.json` says of each set beside the numbers: {name: {"prompts", "unused", "remarks"}}, each where
    there is something to say.

    train: the labelled training pictures of a probe; prompts: whether class names are put into some, which captions
    are not
    """
    words = read_record(loaded.describe)
    told = {}
    for evalset in readable(loaded.model, sets)[0]:
        asked = prompts and bool(evalset.classnames)
        own: dict[str, Any] = {"prompts": _prompts(evalset)} if asked else {}
        remarks = [*_remarks(evalset), *(_of_prompts(evalset, loaded.tokenizer, words) if asked else ())]
        told[evalset.name] = own | _beside(evalset, remarks)
    if train is not None:
        told["labelled training pictures"] = _beside(train, list(_remarks(train)))
    return {name: facts for name, facts in told.items() if facts}


def _prompts(evalset: EvalSet) -> dict[str, Any]:
    return {
        "from": evalset.prompts,
        "count": len(evalset.templates),
        "sha256": evalset.hashes()["templates"],
        "first": evalset.templates[0],
    }


def _beside(evalset: EvalSet, remarks: list[str]) -> dict[str, Any]:
    unused = {reason: {"n": len(names), "names": names[:SHOWN]} for reason, names in evalset.unused.items()}
    return {key: value for key, value in (("unused", unused), ("remarks", remarks)) if value}


def _remarks(evalset: EvalSet) -> Iterator[str]:
    yield from evalset.remarks
    keys = Counter(key for key, *_ in evalset.items)
    if twice := [key for key, count in keys.items() if count > 1]:
        yield f"keys that are there twice: {len(twice):,} ({some(twice)})"


def _of_prompts(evalset: EvalSet, tokenizer: Tokenizer, words: SeenWords | None) -> Iterator[str]:
    names, templates = evalset.classnames, evalset.templates
    if blank := [str(place) for place, name in enumerate(names) if not name]:
        yield f"the class name of label {some(blank)} is blank: its prompts are the templates without a name"
    yield from _alike(evalset, tokenizer)
    if cut := _cut(names, templates, tokenizer):
        yield f"class names whose prompts are cut at {tokenizer.context_length} tokens: {len(cut):,} ({some(cut)})"
    if words is None:
        return
    if unseen := words.unseen(tokenizer, [each.replace("{}", " ") for each in templates]):
        yield f"words of the prompts are {words.where()}: {some(unseen, 8)}"
    if unseen := words.unseen(tokenizer, names):
        holding = sum(bool(words.unseen(tokenizer, [name])) for name in names)
        yield f"class names with words that are {words.where()}: {holding:,} of {len(names):,} ({some(unseen, 4)})"


def _alike(evalset: EvalSet, tokenizer: Tokenizer) -> Iterator[str]:
    """Classes whose prompts are those of an earlier one: of equal scores the first counts."""
    rows = tokenizer([fill(evalset.templates[0], name) for name in evalset.classnames])
    first: dict[tuple[int, ...], int] = {}
    later = [
        (place, at) for place, row in enumerate(rows.tolist()) if (at := first.setdefault(tuple(row), place)) != place
    ]
    if not later:
        return
    pictures = torch.bincount(torch.tensor([label for _, _, label, _ in evalset.items]), minlength=len(rows))
    lost = int(pictures[[place for place, _ in later]].sum())
    pairs = [f"{evalset.classnames[place]!r} (class {place}, as class {at})" for place, at in later]
    theirs = f"{counted(lost, 'picture')} of theirs can't be right"
    yield f"classes that read as an earlier one, so that {theirs}: {some(pairs)}"


def _cut(names: Sequence[str], templates: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    room = tokenizer.context_length - 2
    longest = max(templates, key=len)
    return [
        name if len(name) <= 40 else f"{name[:40]}…"
        for name in names
        if len(text := fill(longest, name)) * 4 > room and len(tokenizer.encode(text)) > room
    ]


def tell(out: Path, task: str, told: dict[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`about`'s findings into `out/metrics.json`, "sets", by the task whose numbers they stand beside. metrics: what
    is there already. Returns the metrics."""
    return merge_metrics(out / "metrics.json", {"sets": {**metrics.get("sets", {}), task: told}})


def lines(told: Mapping[str, Any]) -> str:
    """The terminal's lines on what `about` found, each once for all sets that share it: prompts, then the rest."""
    groups: dict[tuple[str, int, str, str], list[str]] = {}
    for name, facts in told.items():
        if prompts := facts.get("prompts"):
            key = (prompts["from"], prompts["count"], prompts["sha256"], prompts["first"])
            groups.setdefault(key, []).append(name)
    found = [
        f"prompts of {some(names)}: {whose}, {counted(count, 'template')} ({digest[:12]}),"
        f" the first {printable(first)!r}"
        for (whose, count, digest, first), names in groups.items()
    ]
    rest: dict[str, list[str]] = {}
    for name, facts in told.items():
        for reason, left in facts.get("unused", {}).items():
            more = f" and {left['n'] - 5:,} more" if left["n"] > 5 else ""
            rest.setdefault(f"not used, {reason}: {', '.join(left['names'][:5])}{more}", []).append(name)
        for remark in facts.get("remarks", ()):
            rest.setdefault(remark, []).append(name)
    return "\n".join([*found, *(f"{some(names)}: {remark}" for remark, names in rest.items())])
