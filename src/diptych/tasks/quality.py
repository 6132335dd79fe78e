"""`task=quality`: what the embedding space is like, and which test pictures training had too."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.data.sets.evalset import EvalSet, encoded_bytes
from diptych.evaluation import duplicates, quality
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.model.encode import Encoded, classified, encode_set, encode_texts
from diptych.model.load import Loaded
from diptych.report.gallery import encode
from diptych.report.geometry import modality_gap
from diptych.tasks.zeroshot import merge_metrics

SHOWN = 6  # pairs of duplicates a set that the page shows


def write_quality(
    out: Path, loaded: Loaded, sets: Sequence[EvalSet], train: EvalSet | None, bits: int, cosine: float
) -> dict[str, Any]:
    """Into `out/metrics.json`: "quality" and "duplicates" of every set.

    train: the training pictures that test pictures are compared with; None leaves duplicates out, by name
    bits: of 64 in which the hashes of near-duplicates may differ; cosine: least of their embeddings
    """
    sets = classified(sets, "quality")
    trained = None if train is None else (encode_set(loaded.model, train), *_prints(train))
    found: dict[str, Any] = {}
    doubles: dict[str, Any] = {}
    for evalset in sets:
        encoded = encode_set(loaded.model, evalset)
        found[evalset.name] = _quality(loaded, evalset, encoded)
        if trained is None or train is None:
            doubles[evalset.name] = {"not_computed": "data.labelled= gives no training pictures to compare with"}
        else:
            doubles[evalset.name] = _duplicates(loaded, evalset, encoded, train, trained, bits, cosine)
    return merge_metrics(out / "metrics.json", {"quality": found, "duplicates": doubles})


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    titles = ("align", "uniform", "gap", "dim", "purity", "bytes", "hash", "embed", "top-1", "without")
    lines = [f"{'':<22}" + "".join(f"{title:>9}" for title in titles)]
    for name, row in metrics["quality"].items():
        values = [row[key] for key in ("alignment", "uniformity", "gap", "dimension", "purity")]
        cells = "".join(f"{value:>9.2f}" if value is not None else f"{'–':>9}" for value in values)
        twice = metrics["duplicates"][name]
        if "not_computed" in twice:
            lines.append(f"{name:<22}{cells}  duplicates not computed: {twice['not_computed']}")
            continue
        counts = "".join(f"{twice[key]:>9}" for key in ("exact", "hash", "embedding"))
        without = "–" if twice["top1_without"] is None else f"{twice['top1_without']:.1%}"
        lines.append(f"{name:<22}{cells}{counts}{twice['top1']:>9.1%}{without:>9}")
    return "\n".join(lines)


def _quality(loaded: Loaded, evalset: EvalSet, encoded: Encoded) -> dict[str, Any]:
    names = [evalset.classnames[int(label)] for label in encoded.labels]
    prompts = [evalset.templates[0].replace("{}", name) for name in names]
    texts = encode_texts(loaded.model, loaded.tokenizer, prompts)
    return {
        "alignment": quality.alignment(encoded.features, texts),
        "uniformity": quality.uniformity(encoded.features),
        **modality_gap(encoded.features, texts),
        "dimension": quality.intrinsic_dimension(encoded.features),
        "purity": quality.purity(encoded.features, encoded.labels),
        "n": len(names),
    }


def _prints(evalset: EvalSet) -> tuple[list[str], list[int], list[str], list[Tensor]]:
    """Keys, difference hashes, digests of the bytes and 64-pixel pictures of all that can be read."""
    keys, hashes, digests, images = [], [], [], []
    for batch in evalset.batches(256, 64):
        for key, image, place in zip(batch.keys, batch.images, batch.places, strict=True):
            data = evalset.items[place][1]
            keys.append(key)
            hashes.append(duplicates.difference_hash(image))
            digests.append(sha256(encoded_bytes(data)).hexdigest())
            images.append(image)
    return keys, hashes, digests, images


def _duplicates(
    loaded: Loaded,
    evalset: EvalSet,
    encoded: Encoded,
    train: EvalSet,
    trained: tuple[Encoded, list[str], list[int], list[str], list[Tensor]],
    bits: int,
    cosine: float,
) -> dict[str, Any]:
    known, train_keys, train_hashes, train_digests, train_images = trained
    keys, hashes, digests, images = _prints(evalset)
    places = {digest: place for place, digest in enumerate(train_digests)}
    kinds = {
        "exact": [places.get(digest, -1) for digest in digests],
        "hash": [
            place if place >= 0 and duplicates.same_pixels(image, train_images[place]) else -1
            for image, place in zip(images, duplicates.near_hashes(hashes, train_hashes, bits), strict=True)
        ],
        "embedding": duplicates.near_embeddings(encoded.features, known.features, cosine),
    }
    # Not by embedding alone: that a model takes two drawings for one is no sign that they are.
    twice = torch.tensor([exact >= 0 or near >= 0 for exact, near in zip(kinds["exact"], kinds["hash"], strict=True)])
    classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, evalset.classnames, evalset.templates).cpu()
    left = encoded.features[~twice], classifier, encoded.labels[~twice]
    shown = [n for n in range(len(keys)) if twice[n]][:SHOWN]
    return {
        **{kind: sum(place >= 0 for place in found) for kind, found in kinds.items()},
        "left_out": int(twice.sum()),
        "top1": classify(encoded.features, classifier, encoded.labels)["top1"],
        "top1_without": classify(*left)["top1"] if len(left[0]) else None,
        "bits": bits,
        "cosine": cosine,
        "pairs": [
            {
                "test": keys[n],
                "train": train_keys[(place := max(kinds["exact"][n], kinds["hash"][n]))],
                "image": encode(images[n]),
                "other": encode(train_images[place]),
            }
            for n in shown
        ],
    }
