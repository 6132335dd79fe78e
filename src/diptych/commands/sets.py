"""The evaluation sets that a config names, the prompts that each set uses, and what to report about both.

The same pictures, classes and weights give another accuracy with other prompts. So every set knows where its
templates come from, and every table says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diptych.base.errors import UserError
from diptych.base.templates import CLIPS, NAMED, PLAIN, RUNS, canonical, read_templates
from diptych.base.terminal import counted
from diptych.building.build import make
from diptych.data.io.address import printable
from diptych.data.sets import benchmarks
from diptych.data.sets.evalset import EvalSet, some
from diptych.data.sets.opening import KINDS, check_path, sets_at
from diptych.data.sets.pair_set import pair_set
from diptych.data.sets.published import IMAGENET
from diptych.data.text.seen_words import SeenWords, read_record
from diptych.data.text.tokenizer import Tokenizer
from diptych.evaluation.zeroshot import fill
from diptych.model.cost import affordable
from diptych.model.encode import readable
from diptych.model.load import Loaded
from diptych.report.record import merge_metrics
from diptych.towers.clip import CLIP

SHOWN = 20  # names of unused files that metrics.json lists for each reason, beside their number
CHOICES = "run, simple, imagenet, a file, or a list"


def check_evaluate(node: Any) -> None:
    """node: the config's `data.evaluate`. Raises UserError for what can't be a set, before any is opened."""
    for each in _entries(node):
        if isinstance(each, str):
            check_path(each)


def _entries(node: Any) -> list[Any]:
    """The paths, and the configs of readers, that `data.evaluate` names."""
    if node is None:
        return []
    entries = list(node) if isinstance(node, list | tuple) else [node]
    if not entries or not all(isinstance(each, str) or _is_reader(each) for each in entries):
        raise UserError(
            f"data.evaluate={node} is neither a path nor a list of paths: give {KINDS}, or null for none."
        )
    return entries


def _is_reader(node: Any) -> bool:
    return isinstance(node, Mapping) and "_target_" in node


def evaluation_sets(data: Mapping[str, Any]) -> list[EvalSet]:
    """The sets of `data.evaluate`: a path, the config of a reader, or a list of these. data: the config's `data`"""
    entries = _entries(data.get("evaluate"))
    if entries and all(isinstance(each, str) for each in entries):
        return sets_at(entries)
    found: list[EvalSet] = []
    for each in entries:
        found += sets_at(each) if isinstance(each, str) else make(each, "data.evaluate")
    return found


def sets_for(data: Mapping[str, Any], loaded: Loaded) -> list[EvalSet]:
    """The sets that a task or `embed.py` reads, with their templates: those of `data.evaluate`, or else the pairs of
    `data.shards`. Raises UserError where the config names neither."""
    sets = evaluation_sets(data)
    if not sets:
        if not data.get("shards") and not data.get("sources"):
            raise UserError(
                "data.evaluate and data.shards are both null: give data.evaluate=PATH (a folder or shards), or"
                " data=webdataset data.shards=PATTERN for the pairs themselves."
            )
        files = make(data.get("files"), "data.files")
        if files is not None:
            files.allow_pipe = data.get("allow_pipe", False)
        shards, captions, max_bad = data.get("shards"), data.get("captions"), data.get("max_bad", 0.0)
        sets = pair_set(shards, data.get("sources"), captions, files, max_bad=max_bad)
    return with_templates(sets, data.get("templates"), loaded.templates)


def sets_of_training(data: Mapping[str, Any], model: CLIP) -> tuple[list[EvalSet], list[EvalSet]]:
    """The sets of `data.evaluate` with their templates, and those of them that this model can be evaluated on.

    Raises UserError where the model can encode the class names of none: not only when the training has ended.
    """
    sets = with_templates(evaluation_sets(data), data.get("templates"))
    kept, left = readable(model, sets)
    if left and not kept:
        name, why = next(iter(left.items()))
        raise UserError(f"The model can encode no set of data.evaluate. {name}: {why}: take data.evaluate=null.")
    return sets, affordable(kept, model)


def fix_templates(data: dict[str, Any]) -> None:
    """Replace a template file in a new run's `data` by its text: the run stays the same when the file changes.

    Raises UserError where the file is missing.
    """
    choice = data.get("templates")
    if choice == "run":
        raise UserError("data.templates=run are those that a finished run remembers: to train, give them yourself.")
    found = chosen(choice)
    if isinstance(choice, str) and choice not in NAMED:
        data["templates"] = found


def chosen(choice: str | Sequence[str] | None) -> str | list[str] | None:
    """The value of `data.templates` -> "run", None for the default, or the templates themselves.

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
    """The sets with the templates to use: the set's own; without any, the run's; without any, CLIP's "a photo of a
    {}.".

    choice: the value of `data.templates`, for all sets with classes; run: the templates of the run's validation
    Raises UserError for `run` where the run has none.
    """
    taken = chosen(choice)
    if taken == "run" and not run:
        raise UserError(
            "data.templates=run, but the checkpoint remembers no templates: no set of its validation had any, or"
            " it is not a run of this version. Take simple, imagenet, a file, or a list."
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
    """The templates that a checkpoint remembers: of the first set with the role `validation` that has its own, or
    else of the first set that has its own."""
    own = [each for each in sets if each.classnames and each.templates and each.prompts != CLIPS]
    best = next((each for each in own if each.role == "validation"), own[0] if own else None)
    return [] if best is None else list(best.templates)


def about(
    loaded: Loaded, sets: Sequence[EvalSet], train: EvalSet | None = None, prompts: bool = True
) -> dict[str, Any]:
    """What `metrics.json` says about each set beside the numbers: {name: {"prompts", "unused", "remarks"}}, without
    the empty ones.

    train: the labelled training pictures of a probe; prompts: whether the task puts class names into prompts
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
    """Classes with the same prompts as an earlier class: their scores are equal, and the first class wins."""
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
    """The class names whose longest prompt has more tokens than the model reads."""
    room = tokenizer.context_length - 2
    longest = max(templates, key=len)
    return [
        name if len(name) <= 40 else f"{name[:40]}…"
        for name in names
        if len(text := fill(longest, name)) * 4 > room and len(tokenizer.encode(text)) > room
    ]


def tell(out: Path, task: str, told: dict[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Write `about`'s findings to `out/metrics.json`, under "sets" and the task's name. metrics: what is there.
    Returns the metrics."""
    return merge_metrics(out / "metrics.json", {"sets": {**metrics.get("sets", {}), task: told}})


def lines(told: Mapping[str, Any]) -> str:
    """`about`'s findings as lines for the terminal, prompts first. Sets with the same finding share a line."""
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
