"""A trained model over labelled sets: the numbers, and the pictures that the report shows of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from diptych.base.batch import normalise
from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.terminal import complain
from diptych.data.sets.evalset import EvalSet
from diptych.data.text.tokenizer import Tokenizer
from diptych.evaluation.calibration import details
from diptych.evaluation.prompts import fill
from diptych.evaluation.saliency import COPIES, saliency
from diptych.evaluation.zeroshot import classify, finite_scale, zero_shot_classifier
from diptych.model.cost import affordable_pictures
from diptych.model.encode import Encoded, caption_recall, classified, encode_set, encode_texts, readable
from diptych.model.load import Loaded
from diptych.report.gallery import Pictures, examples, gallery, told_details
from diptych.towers.clip import CLIP

QUERIES = 12  # rows of the retrieval gallery
EXAMPLES = 8  # pictures of each set that the page shows


def write_all(out: Path, loaded: Loaded, sets: Sequence[EvalSet]) -> dict[str, Any]:
    """Zero-shot classification, retrieval by caption and the report's pictures of every set, into `out`:
    `metrics.json` (merged into one that is there), `examples.json`, `gallery.json`, `details.json`. Returns the
    metrics."""
    model, tokenizer = loaded.model, loaded.tokenizer
    scale = finite_scale(model.logit_scale.exp().item())
    labelled = classified(sets, "zeroshot")
    recalls = {evalset.name: _recall_of(loaded, evalset) for evalset in sets if not evalset.classnames}
    sets, unreadable = readable(model, labelled)
    if not sets:
        raise UserError("The model reads the class names of none of the sets: " + _listed(unreadable) + ".")
    results, behind, pictures = {}, {}, []
    classifiers: dict[tuple, Tensor] = {}  # sets often share their classes
    for evalset in sets:
        key = (*evalset.classnames, "", *evalset.templates)
        if key not in classifiers:
            built = zero_shot_classifier(model, tokenizer, evalset.classnames, evalset.templates)
            classifiers[key] = built.cpu()
        classifier = classifiers[key]
        encoded = encode_set(model, evalset)
        found = details(encoded.features, classifier, encoded.labels, scale)
        result = {**classify(encoded.features, classifier, encoded.labels), "ece": found["ece"]}
        results[evalset.name] = _described(evalset, encoded, result)
        behind[evalset.name] = found
        recalls[evalset.name] = _recall(model, tokenizer, encoded, evalset.skipped)
        pictures.append(_pictures(evalset, encoded, classifier))
    zeroshot = {**summary(results), "sets": results, **({"not_computed": unreadable} if unreadable else {})}
    metrics = {"zeroshot": zeroshot, "retrieval": recalls}
    shown = _shown(sets, pictures)
    copies = _affordable_copies(model, len(shown))
    look = partial(_look, model, copies) if copies else None
    write_json(out / "examples.json", examples(shown, scale, per_set=EXAMPLES, look=look))
    write_json(out / "gallery.json", _gallery(model, tokenizer, shown))
    write_json(out / "details.json", told_details(pictures, behind))
    return merge_metrics(out / "metrics.json", metrics)


def write_retrieval(out: Path, loaded: Loaded, sets: Sequence[EvalSet]) -> dict[str, Any]:
    """Recall@k between pictures and their captions, into `out/metrics.json`. Sets without captions are named."""
    recalls = {evalset.name: _recall_of(loaded, evalset) for evalset in sets}
    return merge_metrics(out / "metrics.json", {"retrieval": recalls})


def write_embeddings(out: Path, loaded: Loaded, sets: Sequence[EvalSet]) -> tuple[Path, list[str]]:
    """Every set's embeddings, in `out/embeddings.parquet`. Returns it, and a line a reason of what was skipped.

    The text of a picture is its first caption, or, where it has none, its class name in the set's first template.
    """
    from diptych.report.embeddings import write_table

    keys, captions, images = [], [], []
    skipped: list[str] = []
    labels: list[str | None] = []
    for evalset in sets:
        encoded = encode_set(loaded.model, evalset)
        skipped += [
            f"skipped in {evalset.name}: {len(of)} × {why}, as {of[0]}" for why, of in encoded.skipped.items()
        ]
        classes = evalset.classnames
        names = [classes[int(label)] if classes else None for label in encoded.labels]
        keys += encoded.keys
        labels += names
        captions += [
            _first(caption) or fill(evalset.templates[0], name or "")
            for caption, name in zip(encoded.captions, names, strict=True)
        ]
        images.append(encoded.features)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "embeddings.parquet"
    texts = encode_texts(loaded.model, loaded.tokenizer, captions)
    write_table(file, keys, captions, labels, torch.cat(images), texts)
    return file, skipped


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The headline: the mean over sets of the role `shift`, or over all sets where there is none."""
    chosen = [r for r in results.values() if r["role"] == "shift"] or list(results.values())
    mean = {key: sum(result[key] for result in chosen) / len(chosen) for key in ("top1", "top5")}
    return {**mean, "n": sum(result["n"] for result in chosen)}


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    lines = []
    if sets := metrics.get("zeroshot", {}).get("sets"):
        lines.append(f"{'zero-shot':<24}{'role':<12}{'classes':>8}{'n':>7}{'top-1':>8}{'top-5':>8}{'chance':>8}")
        for name, row in sets.items():
            lines.append(
                f"{name:<24}{row['role']:<12}{row['classes']:>8}{row['n']:>7}"
                f"{row['top1']:>8.1%}{row['top5']:>8.1%}{row['chance']:>8.2%}"
            )
        shifts = sum(row["role"] == "shift" for row in sets.values())
        title = f"mean of {shifts} shifts" if shifts else "mean"
        whole = metrics["zeroshot"]
        lines.append(f"{title:<51}{whole['top1']:>8.1%}{whole['top5']:>8.1%}")
        for name, row in sets.items():
            lines += [f"skipped in {name}: {len(keys)} × {why}" for why, keys in row.get("skipped", {}).items()]
        lines += [f"{name}: not computed, {why}" for name, why in whole.get("not_computed", {}).items()]
    for name, row in metrics.get("retrieval", {}).items():
        if "not_computed" in row:
            lines.append(f"retrieval {name}: not computed, {row['not_computed']}")
            continue
        if name not in metrics.get("zeroshot", {}).get("sets", {}):
            lines += [f"skipped in {name}: {n} × {why}" for why, n in row.get("skipped", {}).items()]
            for title, key in (("text→image", "text_to_image"), ("image→text", "image_to_text")):
                shares = "  ".join(f"{k} {share:.1%}" for k, share in row[key].items())
                lines.append(f"{name:<24}{title}  {shares}  median rank {row['median_rank'][key]:g}")
    return "\n".join(lines)


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in reasons.items())


def _described(evalset: EvalSet, encoded: Encoded, result: dict[str, Any]) -> dict[str, Any]:
    return {
        **result,
        "classes": len(evalset.classnames),
        "chance": 1 / len(evalset.classnames),
        "role": evalset.role,
        "note": evalset.note,
        "skipped": encoded.skipped,
        "hashes": evalset.hashes(),
    }


def _recall_of(loaded: Loaded, evalset: EvalSet) -> dict[str, Any]:
    return _recall(loaded.model, loaded.tokenizer, encode_set(loaded.model, evalset), evalset.skipped)


def _recall(model: CLIP, tokenizer: Tokenizer, encoded: Encoded, unread: Mapping[str, list[str]]) -> dict[str, Any]:
    """Recall of a set, or why there is none. unread: what the set's reader left out, by reason"""
    every = (unread, encoded.skipped)
    skipped = {why: len({key for of in every for key in of.get(why, ())}) for why in {**unread, **encoded.skipped}}
    counted = {"skipped": skipped} if skipped else {}
    if not model.reads_sentences:
        return {"not_computed": "the model reads class names alone, no captions"} | counted
    if not all(encoded.captions):
        none = encoded.captions.count("")
        return {"not_computed": f"{none} of {len(encoded.captions)} pictures have no caption"} | counted
    return caption_recall(model, tokenizer, encoded.features, encoded.captions) | counted


def _first(caption: str) -> str:
    return caption.split("\n", 1)[0]


def _pictures(evalset: EvalSet, encoded: Encoded, classifier: Tensor) -> Pictures:
    whole = [batch.images for batch in evalset.batches(1024, 64)]
    return Pictures(
        evalset.name,
        encoded.keys,
        encoded.labels,
        torch.cat(whole),
        encoded.features,
        evalset.classnames,
        classifier,
    )


def _affordable_copies(model: CLIP, sets: int) -> int:
    """Noisy copies of each example that a map may take: all on a GPU, on a CPU as many as ten seconds allow."""
    if next(model.parameters()).is_cuda:
        return COPIES
    passes = 3 * EXAMPLES * sets  # a gradient costs some three times the features
    return min(COPIES, affordable_pictures(model, seconds=10.0) // passes)


def _look(model: CLIP, copies: int, images: Tensor, classes: Tensor) -> Tensor:
    """What the answers to pictures uint8 [N, 3, H, W] hang on, float [N, H, W], at the model's own size and back."""
    device = next(model.parameters()).device
    size = (model.image_size, model.image_size)
    given = interpolate(images.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)
    pixels = normalise(given.to(device), model.mean, model.std)
    seen = saliency(model.encode_image, pixels, classes.to(device), copies).cpu()
    return interpolate(seen[:, None], images.shape[-2:], mode="bilinear")[:, 0].clamp(0, 1)


def _shown(sets: Sequence[EvalSet], pictures: list[Pictures]) -> list[Pictures]:
    """The shifts, or every set where there is none."""
    shifts = [shown for evalset, shown in zip(sets, pictures, strict=True) if evalset.role == "shift"]
    return shifts or pictures


def _gallery(model: CLIP, tokenizer: Tokenizer, shown: list[Pictures]) -> dict[str, Any]:
    names = shown[0].classnames
    pick = torch.randperm(len(names), generator=torch.Generator().manual_seed(1))[:QUERIES].tolist()
    concepts = [names[i] for i in pick]
    texts = [f"a drawing of {concept}" if model.reads_sentences else concept for concept in concepts]
    return gallery(shown, texts, concepts, encode_texts(model, tokenizer, texts))


def merge_metrics(file: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write `metrics` beside what the file holds already, and return all of it. What that replaces of other sets is
    said. Raises UserError for a file that holds something else."""
    try:
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not isinstance(before, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} holds no numbers of ours ({error}): remove it, or take another folder.") from error
    for part, value in metrics.items():
        if gone := _sets(before.get(part)) - _sets(value):
            complain(f"{part} of {', '.join(sorted(gone))} in {file} is replaced.")
    write_json(file, {**before, **metrics})
    return {**before, **metrics}


def _sets(part: Any) -> set[str]:
    """The sets that a part of the metrics has numbers of."""
    rows = part.get("sets", part) if isinstance(part, dict) else {}
    return {name for name, row in rows.items() if isinstance(row, dict)} if isinstance(rows, dict) else set()
