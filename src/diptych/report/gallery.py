"""What the report's pictures are made of: a run's examples and its text-to-image gallery, as JSON values.

Pure: arrays in, dict out. Which pictures are shown is drawn by a seed, never chosen, so that a page full of
successes is one.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.evaluation.features import similarity, unit
from diptych.evaluation.zeroshot import top_k

SHOWN = 5
"""Classes shown under a picture."""

CONFUSIONS = 6
"""Confusions of a set that are shown with pictures."""


@dataclass(frozen=True)
class Pictures:
    """N pictures of one evaluation set, and what the model made of them. `labels` index `classnames`."""

    name: str
    keys: Sequence[str]
    labels: Tensor  # int64 [N]
    images: Tensor  # uint8 [N, 3, H, W]
    features: Tensor  # [N, D]
    classnames: Sequence[str]  # C
    classifier: Tensor  # [C, D]


def draw(n: int, count: int, seed: int) -> list[int]:
    """`count` of the numbers 0…n-1 (all of them where n is smaller), a random sample in ascending order."""
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(n, generator=generator)[:count].tolist())


Look = Callable[[Tensor, Tensor], Tensor]
"""images uint8 [N, 3, H, W], classes [N, D] -> float [N, H, W], 0 to 1: which pixels an answer hangs on."""


def examples(
    sets: Sequence[Pictures], scale: float, per_set: int = 8, seed: int = 0, look: Look | None = None
) -> dict[str, Any]:
    """`per_set` pictures of each set with the model's five likeliest classes ->
    {"scale", "seed", "maps", "examples": [{"set", "key", "label", "image", "map", "top": [[name, p], …]}]}.
    `scale` is what the cosines are multiplied by: the exp of the logit scale. "map": the picture in grey under what
    `look` says of the likeliest class; None without it"""
    rows = []
    for position, pictures in enumerate(sets):
        # Sets of one length would otherwise show the same rows, which are often the same classes.
        chosen = draw(len(pictures.keys), per_set, seed + position)
        best = top_k(pictures.features[chosen], pictures.classifier, scale, SHOWN)
        maps = look(pictures.images[chosen], pictures.classifier[best[1][:, 0]]) if look else [None] * len(chosen)
        for i, shares, classes, seen in zip(chosen, best[0].tolist(), best[1].tolist(), maps, strict=True):
            names = [pictures.classnames[c] for c in classes]
            rows.append(
                {
                    "set": pictures.name,
                    "key": pictures.keys[i],
                    "label": pictures.classnames[int(pictures.labels[i])],
                    "image": encode(pictures.images[i]),
                    "map": None if seen is None else encode(overlay(pictures.images[i], seen)),
                    "top": [list(pair) for pair in zip(names, shares, strict=True)],
                }
            )
    return {"scale": scale, "seed": seed, "maps": look is not None, "examples": rows}


def gallery(
    sets: Sequence[Pictures], texts: Sequence[str], concepts: Sequence[str], features: Tensor, k: int = 8
) -> dict[str, Any]:
    """The k pictures of all sets together that are nearest to each of Q texts.

    `features` [Q, D] are the texts', `concepts` the Q class names a hit must have to be correct ->
    {"sets": [name], "queries": [{"text", "hits": [{"image", "label", "set", "score", "correct"}]}]},
    `score` being the cosine.
    """
    where = [(pictures, i) for pictures in sets for i in range(len(pictures.keys))]
    images = unit(torch.cat([pictures.features for pictures in sets]), "image features")
    best = similarity(unit(features, "text features"), images).topk(min(k, len(where)), dim=1)
    queries = []
    for text, concept, scores, rows in zip(texts, concepts, best.values.tolist(), best.indices.tolist(), strict=True):
        hits = [_hit(where[row], score, concept) for row, score in zip(rows, scores, strict=True)]
        queries.append({"text": text, "hits": hits})
    return {"sets": [pictures.name for pictures in sets], "queries": queries}


def told_details(sets: Sequence[Pictures], behind: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `evaluation.calibration.details` found of each set, with names for numbers, and for the most frequent
    confusions a picture that was misread beside one of the class it was taken for, where the set has one ->
    {set: {"bins", "per_class": [[name, right, n]], "confusions": [{"true", "said", "n", "image", "other"}]}}"""
    return {pictures.name: _told(pictures, behind[pictures.name]) for pictures in sets}


def _told(pictures: Pictures, found: Mapping[str, Any]) -> dict[str, Any]:
    names, said = pictures.classnames, torch.tensor(found["said"])
    confusions = []
    for true, taken, n in found["confusions"][:CONFUSIONS]:
        misread = ((pictures.labels == true) & (said == taken)).nonzero()[0, 0]
        like = (pictures.labels == taken).nonzero()
        other = encode(pictures.images[int(like[0, 0])]) if len(like) else None
        row = {"true": names[true], "said": names[taken], "n": n, "image": encode(pictures.images[int(misread)])}
        confusions.append({**row, "other": other})
    per_class = [[name, *counts] for name, counts in zip(names, found["per_class"], strict=True)]
    return {"bins": found["bins"], "per_class": per_class, "confusions": confusions}


def overlay(image: Tensor, seen: Tensor) -> Tensor:
    """uint8 [3, H, W], float [H, W] from 0 to 1 -> uint8 [3, H, W]: the picture in light grey, red where `seen` is
    high."""
    grey = 0.45 * image.float().mean(dim=0) + 130
    red = torch.tensor([200.0, 30.0, 30.0])[:, None, None]
    return (grey + seen.square() * (red - grey)).clamp(0, 255).to(torch.uint8)


def encode(image: Tensor) -> str:
    """uint8 [3, H, W] -> a WebP file as base64 text."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, "webp", quality=90)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _hit(where: tuple[Pictures, int], score: float, concept: str) -> dict[str, Any]:
    pictures, i = where
    label = pictures.classnames[int(pictures.labels[i])]
    return {
        "image": encode(pictures.images[i]),
        "label": label,
        "set": pictures.name,
        "score": score,
        "correct": label == concept,
    }
