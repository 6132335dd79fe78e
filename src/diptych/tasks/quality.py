"""`task=quality`: what the embedding space is like, and which test pictures training had too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.base.quantities import Bits
from diptych.data.sets.evalset import EvalSet, encoded_bytes
from diptych.evaluation import quality
from diptych.evaluation.zeroshot import classify, fill
from diptych.model.encode import Encoded, classified, encode_set, encode_texts
from diptych.model.load import Loaded
from diptych.report.formats import count, decimal, mapping, mappings, mean, numbers, percent
from diptych.report.gallery import encode
from diptych.report.record import Record, merge_metrics
from diptych.report.section import Headline, Row, Section, Table, TaskPage, Text, Twins, of_sets
from diptych.tasks.zeroshot import classifier_of

SHOWN = 6  # pairs of duplicates a set that the page shows
MEASURES = {
    "alignment": "alignment",
    "uniformity": "uniformity",
    "gap": "modality gap",
    "dimension": "intrinsic dimension",
    "purity": "purity of 5 neighbours",
}


@dataclass(frozen=True)
class _Prints:
    """Of all pictures of a set that can be read: features [N, D], keys, difference hashes, digests of the bytes, and
    64-pixel pictures."""

    features: Tensor
    keys: list[str]
    hashes: list[int]
    digests: list[str]
    images: list[Tensor]


def write_quality(
    out: Path, loaded: Loaded, sets: Sequence[EvalSet], train: EvalSet | None, bits: Bits, cosine: float
) -> dict[str, Any]:
    """Into `out/metrics.json`: "quality" and "duplicates" of every set.

    train: the training pictures that test pictures are compared with; None leaves duplicates out, by name
    bits: of 64 in which the hashes of near-duplicates may differ; cosine: least of their embeddings
    """
    sets = classified(sets, "quality")
    trained = None if train is None else _prints(train, encode_set(loaded.model, train))
    found: dict[str, Any] = {}
    doubles: dict[str, Any] = {}
    for evalset in sets:
        encoded = encode_set(loaded.model, evalset)
        found[evalset.name] = _quality(loaded, evalset, encoded)
        if trained is None:
            doubles[evalset.name] = {"not_computed": "data.labelled= gives no training pictures to compare with"}
        else:
            doubles[evalset.name] = _duplicates(loaded, evalset, encoded, trained, bits, cosine)
    return merge_metrics(out / "metrics.json", {"quality": found, "duplicates": doubles})


def table(metrics: dict[str, Any]) -> str:
    """The terminal's table."""
    titles = ("align", "uniform", "gap", "dim", "purity", "bytes", "hash", "embed", "top-1", "without")
    lines = [f"{'':<22}" + "".join(f"{title:>9}" for title in titles)]
    for name, row in metrics["quality"].items():
        values = [row[key] for key in MEASURES]
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
    prompts = [fill(evalset.templates[0], evalset.classnames[int(label)]) for label in encoded.labels]
    texts = encode_texts(loaded.model, loaded.tokenizer, prompts)
    return {
        "alignment": quality.alignment(encoded.features, texts),
        "uniformity": quality.uniformity(encoded.features),
        **quality.modality_gap(encoded.features, texts),
        "dimension": quality.intrinsic_dimension(encoded.features),
        "purity": quality.purity(encoded.features, encoded.labels),
        "n": len(prompts),
    }


def _prints(evalset: EvalSet, encoded: Encoded) -> _Prints:
    found = _Prints(encoded.features, [], [], [], [])
    for batch in evalset.batches(256, 64):
        for key, image, place in zip(batch.keys, batch.images, batch.places, strict=True):
            found.keys.append(key)
            found.hashes.append(quality.difference_hash(image))
            found.digests.append(sha256(encoded_bytes(evalset.items[place][1])).hexdigest())
            found.images.append(image)
    return found


def _duplicates(
    loaded: Loaded, evalset: EvalSet, encoded: Encoded, trained: _Prints, bits: int, cosine: float
) -> dict[str, Any]:
    tested = _prints(evalset, encoded)
    places = {digest: place for place, digest in enumerate(trained.digests)}
    kinds = {
        "exact": [places.get(digest, -1) for digest in tested.digests],
        "hash": [
            place if place >= 0 and quality.same_pixels(image, trained.images[place]) else -1
            for image, place in zip(
                tested.images, quality.near_hashes(tested.hashes, trained.hashes, bits), strict=True
            )
        ],
        "embedding": quality.near_embeddings(tested.features, trained.features, cosine),
    }
    # The place of the training picture; not by embedding alone, which may be the same for two drawings.
    same = [max(exact, near) for exact, near in zip(kinds["exact"], kinds["hash"], strict=True)]
    twice = torch.tensor([place >= 0 for place in same])
    classifier = classifier_of(loaded, evalset)
    left = encoded.features[~twice], classifier, encoded.labels[~twice]
    return {
        **{kind: sum(place >= 0 for place in found) for kind, found in kinds.items()},
        "left_out": int(twice.sum()),
        "top1": classify(encoded.features, classifier, encoded.labels)["top1"],
        "top1_without": classify(*left)["top1"] if len(left[0]) else None,
        "bits": bits,
        "cosine": cosine,
        "pairs": [
            {
                "test": tested.keys[n],
                "train": trained.keys[place],
                "image": encode(tested.images[n]),
                "other": encode(trained.images[place]),
            }
            for n, place in [(n, place) for n, place in enumerate(same) if place >= 0][:SHOWN]
        ],
    }


def _headline(record: Record) -> Headline:
    gaps = numbers(mapping(row).get("gap") for row in mapping(record.metrics.get("quality")).values())
    return Headline(decimal(mean(gaps)), "", f"gap between the two modalities, {of_sets(gaps)}.")


def _section(record: Record) -> Section | None:
    told = mapping(record.metrics.get("quality"))
    if not told:
        return None
    doubles = mapping(record.metrics.get("duplicates"))
    limits = next((twice for each in doubles.values() if "bits" in (twice := mapping(each))), {})
    lead = (
        "Alignment: mean squared distance of a picture and its class's prompt. Uniformity: below, more evenly"
        " spread. Gap: distance of the two modalities' centres. Duplicates: test pictures that the labelled training"
        f" pictures hold too, by their bytes, by their pixels (a 64-bit hash of which {count(limits.get('bits'))}"
        f" bits may differ, and thumbnails within 10 levels), by their embedding (cosine"
        f" {decimal(limits.get('cosine'))} or more); top-1 in % with all, and without those found by bytes or pixels."
    )
    rows: list[Row] = []
    twins: list[Twins] = []
    for name, values in told.items():
        row, twice = mapping(values), mapping(doubles.get(name))
        cells = [decimal(row.get(key)) for key in MEASURES]
        if why := twice.get("not_computed"):
            rows.append(Row(name, cells, why=f"not computed: {why}"))
        else:
            cells += [count(twice.get(kind)) for kind in ("exact", "hash", "embedding")]
            rows.append(Row(name, [*cells, percent(twice.get("top1")), percent(twice.get("top1_without"))]))
        if pairs := mappings(twice.get("pairs")):
            title = f"{name}: a test picture beside the training picture it repeats, {len(pairs)} of"
            twins.append(Twins(f"{title} {count(twice.get('left_out'))}", pairs, "test", "train"))
    head = ["Set", *MEASURES.values(), "same bytes", "same pixels", "same embedding", "top-1", "without"]
    return Section("The embedding space", [Text(lead), Table(head, rows), *twins])


PAGE = TaskPage("embedding space", _headline, 5, "Quality", _section)
