"""The pictures of the report: examples, a text-to-image gallery and confusions, as JSON values; and these read back.

A seed draws the pictures that are shown, so that nobody can choose the correct answers.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from diptych.evaluation.features import similarity, unit
from diptych.evaluation.zeroshot import top_k
from diptych.report.curves import Axis, Chart, line_chart
from diptych.report.formats import listed, mapping, mappings, number, numbers
from diptych.report.record import Record

SHOWN = 5
"""Classes shown under a picture."""
ORDINALS = ("1st", "2nd", "3rd", "4th", "5th")
CONFUSIONS = 6
"""Confusions of a set that are shown with pictures."""
WORST = 10
"""Worst classes that are listed; a class of fewer pictures than LEAST says nothing."""
LEAST = 2


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


Look = Callable[[Tensor, Tensor], Tensor]
"""images uint8 [N, 3, H, W], classes [N, D] -> float [N, H, W], 0 to 1: which pixels an answer depends on."""


def draw(n: int, count: int, seed: int) -> list[int]:
    """`count` of the numbers 0…n-1 (all of them where n is smaller), a random sample in ascending order."""
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(n, generator=generator)[:count].tolist())


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


def _hit(where: tuple[Pictures, int], score: float, concept: str) -> dict[str, Any]:
    pictures, i = where
    label = pictures.classnames[int(pictures.labels[i])]
    image = encode(pictures.images[i])
    return {"image": image, "label": label, "set": pictures.name, "score": score, "correct": label == concept}


def confusions(pictures: Pictures, found: Mapping[str, Any]) -> dict[str, Any]:
    """What `evaluation.accuracy.details` found of a set, with names for numbers, and for the most frequent confusions
    a picture that got the wrong answer beside one of the class of that answer, where the set has one ->
    {"bins", "per_class": [[name, right, n]], "confusions": [{"true", "said", "n", "image", "other"}]}"""
    names, said = pictures.classnames, torch.tensor(found["said"])
    rows = []
    for true, taken, n in found["confusions"][:CONFUSIONS]:
        wrong = ((pictures.labels == true) & (said == taken)).nonzero()[0, 0]
        like = (pictures.labels == taken).nonzero()
        other = encode(pictures.images[int(like[0, 0])]) if len(like) else None
        image = encode(pictures.images[int(wrong)])
        rows.append({"true": names[true], "said": names[taken], "n": n, "image": image, "other": other})
    per_class = [[name, *counts] for name, counts in zip(names, found["per_class"], strict=True)]
    return {"bins": found["bins"], "per_class": per_class, "confusions": rows}


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


# Read back from a run's files, in which nothing is trusted.


def shown_examples(record: Record) -> dict[str, Any]:
    """The example pictures by set, each with its bars and a verdict in words."""
    cards = [_card(example) for example in mappings(record.examples.get("examples"))]
    return {
        "seed": record.examples.get("seed"),
        "maps": record.examples.get("maps") is True,
        "sets": [(name, list(members)) for name, members in groupby(cards, key=lambda card: card["set"])],
        "right": sum(card["right"] for card in cards),
        "n": len(cards),
    }


def _card(example: dict[str, Any]) -> dict[str, Any]:
    label = example.get("label")
    pairs = [pair for pair in listed(example.get("top")) if isinstance(pair, list)]
    bars = [(name, number(share), name == label) for name, share in pairs[: len(ORDINALS)]]
    place = next((i for i, bar in enumerate(bars) if bar[2]), -1)
    verdict = "right" if place == 0 else f"wrong, truth {ORDINALS[place]}" if place > 0 else "wrong, not listed"
    card = {key: example.get(key) for key in ("set", "key", "image", "map")}
    return card | {"label": label, "bars": bars, "right": place == 0, "verdict": verdict}


def shown_queries(record: Record) -> list[dict[str, Any]]:
    """The gallery's queries, each with its hits and how many of them are correct."""
    found = []
    for query in mappings(record.gallery.get("queries")):
        hits = mappings(query.get("hits"))
        right = sum(hit.get("correct") is True for hit in hits)
        found.append({"text": query.get("text"), "hits": hits, "right": right})
    return found


def shown_details(record: Record) -> list[dict[str, Any]]:
    """Of each set that has any: its reliability diagram, expected calibration error, worst classes and confusions."""
    found = []
    for name, told in record.details.items():
        row = mapping(told)
        if chart := _reliability(str(name), row):
            ece = number(record.sets().get(str(name), {}).get("ece"))
            wrong = mappings(row.get("confusions"))
            found.append({"name": name, "ece": ece, "chart": chart, "classes": _worst(row), "confusions": wrong})
    return found


def _reliability(name: str, row: dict[str, Any]) -> Chart | None:
    """Accuracy by confidence, in %, and the diagonal, on which the confidence is the accuracy."""
    bins = [
        each
        for each in mappings(row.get("bins"))
        if number(each.get("n")) > 0 and len(numbers([each.get("confidence"), each.get("accuracy")])) == 2
    ]
    if not bins:
        return None
    lines = {
        "measured": (
            [round(100 * number(each.get("confidence"))) for each in bins],
            [100 * number(each.get("accuracy")) for each in bins],
        ),
        "calibrated": ([0, 100], [0.0, 100.0]),
    }
    notes = [f"{number(each.get('n')):,.0f}" for each in bins]
    axis = Axis("probability of the answer, %", "answers that are right, %", notes=notes)
    return line_chart(f"Reliability, {name}", lines, "{:.0f} %", axis)


def _worst(row: dict[str, Any]) -> dict[str, Any]:
    """The classes with the lowest accuracy, and how many classes are always right and never, of those with enough
    pictures."""
    classes = []
    for each in listed(row.get("per_class")):
        if isinstance(each, list) and len(each) == 3 and number(each[2]) >= LEAST:
            classes.append((str(each[0]), number(each[1]) / number(each[2]), int(number(each[2]))))
    ranked = sorted(classes, key=lambda each: (each[1], -each[2], each[0]))
    never, always = (sum(share == end for _, share, _ in classes) for end in (0, 1))
    return {"n": len(classes), "never": never, "always": always, "worst": ranked[:WORST]}
