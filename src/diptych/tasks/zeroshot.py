"""`task=zeroshot`: accuracy on labelled sets, with class names as the classifier, and the pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from diptych.base.batch import normalise
from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.accuracy import details
from diptych.evaluation.features import finite_scale
from diptych.evaluation.zeroshot import COPIES, classify, saliency, zero_shot_classifier
from diptych.model.cost import affordable_pictures
from diptych.model.encode import Encoded, classified, encode_set, encode_texts, readable
from diptych.model.load import Loaded
from diptych.report import view
from diptych.report.formats import count, percent
from diptych.report.gallery import Pictures, confusions, examples, gallery
from diptych.report.record import Record, merge_metrics
from diptych.report.section import Headline, TaskPage, share
from diptych.tasks import retrieval
from diptych.towers.clip import CLIP

QUERIES = 12  # rows of the retrieval gallery
EXAMPLES = 8  # pictures of each set that the page shows


def write_all(out: Path, loaded: Loaded, sets: Sequence[EvalSet]) -> dict[str, Any]:
    """Zero-shot classification, retrieval by caption and the report's pictures of every set, into `out`:
    `metrics.json` (merged into one that is there), `examples.json`, `gallery.json`, `details.json`. Returns the
    metrics. Raises UserError where the model knows the class names of no set."""
    model = loaded.model
    scale = scale_of(model)
    labelled = classified(sets, "zeroshot")
    recalls = {each.name: retrieval.recall_of(loaded, each) for each in sets if not each.classnames}
    labelled, unreadable = readable(model, labelled)
    if not labelled:
        reasons = "; ".join(f"{name}: {why}" for name, why in unreadable.items())
        raise UserError(f"The model knows the class names of none of the sets: {reasons}.")

    @cache  # sets often share their classes
    def classifier_of(names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        return zero_shot_classifier(model, loaded.tokenizer, names, templates).cpu()

    results: dict[str, dict[str, Any]] = {}
    told: dict[str, Any] = {}
    shown: list[Pictures] = []
    for evalset in labelled:
        classifier = classifier_of(tuple(evalset.classnames), tuple(evalset.templates))
        encoded = encode_set(model, evalset)
        found = details(encoded.features, classifier, encoded.labels, scale)
        accuracy = classify(encoded.features, classifier, encoded.labels)
        results[evalset.name] = {**accuracy, "ece": found["ece"], **_described(evalset, encoded)}
        recalls[evalset.name] = retrieval.recall_of(loaded, evalset, encoded)
        shown.append(_pictures(evalset, encoded, classifier))
        told[evalset.name] = confusions(shown[-1], found)
    zeroshot = {**summary(results), "sets": results, **({"not_computed": unreadable} if unreadable else {})}
    shifts = [each for each in shown if results[each.name]["role"] == "shift"] or shown
    copies = _affordable_copies(model, len(shifts))
    look = partial(_look, model, copies) if copies else None
    write_json(out / "examples.json", examples(shifts, scale, per_set=EXAMPLES, look=look))
    write_json(out / "gallery.json", _gallery(loaded, shifts))
    write_json(out / "details.json", told)
    return merge_metrics(out / "metrics.json", {"zeroshot": zeroshot, "retrieval": recalls})


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The headline: the mean over sets of the role `shift`, or over all sets where there is none."""
    chosen = [r for r in results.values() if r["role"] == "shift"] or list(results.values())
    mean = {key: sum(result[key] for result in chosen) / len(chosen) for key in ("top1", "top5")}
    return {**mean, "n": sum(result["n"] for result in chosen)}


def classifier_of(loaded: Loaded, evalset: EvalSet) -> Tensor:
    """A set's classes in its own templates, float32 [C, D] on the CPU."""
    return zero_shot_classifier(loaded.model, loaded.tokenizer, evalset.classnames, evalset.templates).cpu()


def scale_of(model: CLIP) -> float:
    """What the model multiplies cosines by. Raises UserError where it is not finite."""
    return finite_scale(model.logit_scale.exp().item())


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table, with the recall of sets that have no classes."""
    lines = []
    whole = metrics.get("zeroshot", {})
    sets = whole.get("sets", {})
    if sets:
        lines.append(f"{'zero-shot':<24}{'role':<12}{'classes':>8}{'n':>7}{'top-1':>8}{'top-5':>8}{'chance':>8}")
        for name, row in sets.items():
            lines.append(
                f"{name:<24}{row['role']:<12}{row['classes']:>8}{row['n']:>7}"
                f"{row['top1']:>8.1%}{row['top5']:>8.1%}{row['chance']:>8.2%}"
            )
        shifts = sum(row["role"] == "shift" for row in sets.values())
        title = f"mean of {shifts} shifts" if shifts else "mean"
        lines.append(f"{title:<51}{whole['top1']:>8.1%}{whole['top5']:>8.1%}")
        for name, row in sets.items():
            lines += [f"skipped in {name}: {len(keys)} × {why}" for why, keys in row.get("skipped", {}).items()]
        lines += [f"{name}: not computed, {why}" for name, why in whole.get("not_computed", {}).items()]
    return "\n".join([*lines, *retrieval.lines(metrics, but=sets)])


def _described(evalset: EvalSet, encoded: Encoded) -> dict[str, Any]:
    return {
        "classes": len(evalset.classnames),
        "chance": 1 / len(evalset.classnames),
        "role": evalset.role,
        "note": evalset.note,
        "skipped": encoded.skipped,
        "hashes": evalset.hashes(),
    }


def _pictures(evalset: EvalSet, encoded: Encoded, classifier: Tensor) -> Pictures:
    images = torch.cat([batch.images for batch in evalset.batches(1024, 64)])
    names = evalset.classnames
    return Pictures(evalset.name, encoded.keys, encoded.labels, images, encoded.features, names, classifier)


def _affordable_copies(model: CLIP, sets: int) -> int:
    """Noisy copies of each example that a map may take: all on a GPU, on a CPU as many as ten seconds allow."""
    if next(model.parameters()).is_cuda:
        return COPIES
    passes = 3 * EXAMPLES * sets  # a gradient costs some three times the features
    return min(COPIES, affordable_pictures(model, seconds=10.0) // passes)


def _look(model: CLIP, copies: int, images: Tensor, classes: Tensor) -> Tensor:
    """Which pixels of pictures uint8 [N, 3, H, W] the answers depend on, float [N, H, W], at the model's own size and
    back."""
    device = next(model.parameters()).device
    size = (model.image_size, model.image_size)
    given = interpolate(images.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)
    pixels = normalise(given.to(device), model.mean, model.std)
    seen = saliency(model.encode_image, pixels, classes.to(device), copies).cpu()
    return interpolate(seen[:, None], images.shape[-2:], mode="bilinear")[:, 0].clamp(0, 1)


def _gallery(loaded: Loaded, shown: list[Pictures]) -> dict[str, Any]:
    names = shown[0].classnames
    pick = torch.randperm(len(names), generator=torch.Generator().manual_seed(1))[:QUERIES].tolist()
    concepts = [names[i] for i in pick]
    sentences = loaded.model.reads_sentences
    texts = [f"a drawing of {concept}" if sentences else concept for concept in concepts]
    return gallery(shown, texts, concepts, encode_texts(loaded.model, loaded.tokenizer, texts))


def _headline(record: Record) -> Headline:
    told = view.headline(record)
    what = f"{told['what']}."
    if told["times"] >= 2:
        what += f" Guessing would give {percent(told['chance'], 2)} %, {count(told['times'])} times less."
    elif not math.isnan(told["chance"]):
        what += f" Guessing would give {percent(told['chance'], 2)} %."
    return share(told["top1"], what)


PAGE = TaskPage("zero-shot evaluation", _headline)  # its section is the report's own
