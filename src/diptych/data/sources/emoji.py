"""The embedded pairs: emoji of eleven drawing styles as training shards and evaluation sets.

One text concept, many hands: five styles are trained on, the others are natural shifts of it. A training
sample is a concept with its drawings and captions, so a batch of distinct samples holds no two of one concept.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from webdataset import ShardWriter, TarWriter

from diptych.data.sources.emoji_captions import caption, captions
from diptych.data.sources.emoji_concepts import Concept, concepts
from diptych.data.sources.emoji_drawings import SIZE, Drawings, coding_error, draw, drop_shared, encode
from diptych.data.sources.emoji_packages import Contents, fetch, load, pinned
from diptych.data.sources.emoji_splits import SetPlan, Splits, plan_sets, split

SEED = 0
SHARDS = 8
TEMPLATES = ("{c}", "a drawing of a {c}.", "a picture of a {c}.", "an icon of a {c}.", "an emoji of a {c}.")
TAR: dict[str, Any] = {"mtime": 0, "user": "diptych", "group": "diptych", "encoder": False}


def pack(path: str | None, out: str) -> None:
    """Write training shards, evaluation sets and statistics to `out`; the same packages give the same bytes.

    path: a folder with the npm packages; None fetches them
    Raises UserError when a package or a tool is missing, or a package isn't what is pinned.
    """
    pins = pinned()
    folder = fetch(pins) if path is None else Path(path)
    (_, names), *packages = load(pins, folder)
    known = _concepts(names)
    joined = draw(known, packages)
    drawings, shared = drop_shared(joined)
    splits = split(known, drawings, SEED)
    encoded = {style: {key: encode(pixels) for key, pixels in of.items()} for style, of in drawings.items()}
    _write_train(Path(out) / "train", known, splits, encoded)
    sets = plan_sets(splits, drawings)
    for plan in sets:
        _write_set(Path(out) / "eval" / plan.name, plan, encoded)
    described = {
        plan.name: {
            "classes": len(plan.classes),
            "drawings": len(plan.drawings),
            "role": plan.role,
            "note": plan.note,
        }
        for plan in sets
    }
    _write_json(Path(out) / "eval" / "sets.json", described)
    _write_json(Path(out) / "statistics.json", _statistics(known, splits, joined, shared, drawings, encoded))


def _concepts(names: Contents) -> list[Concept]:
    entries, groups = names["en/data.json"], names["meta/groups.json"]
    return concepts(entries, groups["groups"], names["meta/unicode-names.json"])


def _write_train(folder: Path, known: list[Concept], splits: Splits, encoded: Drawings) -> None:
    """Concepts in a seeded order, so that no shard is one topic, in SHARDS shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = [concept for concept in known if concept.key in splits.train]
    Random(f"{SEED}/shards").shuffle(trained)
    size = math.ceil(len(trained) / SHARDS)
    with ShardWriter(str(folder / "train-%06d.tar"), maxcount=size, verbose=0, **TAR) as writer:
        for concept in trained:
            writer.write(_sample(concept, splits.train[concept.key], encoded))
    shards: list[dict[str, Any]] = []
    for first in range(0, len(trained), size):
        data = (folder / f"train-{len(shards):06d}.tar").read_bytes()
        shards.append(
            {
                "path": f"train-{len(shards):06d}.tar",
                "samples": len(trained[first : first + size]),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    _write_json(folder / "index.json", {"version": 1, "shards": shards})


def _sample(concept: Concept, styles: list[str], encoded: Drawings) -> dict[str, str | bytes]:
    text = {
        "label": concept.label,
        "captions": captions(concept, SEED),
        "group": concept.group,
        "tags": concept.tags,
    }
    images = {f"{style}.webp": encoded[style][concept.key] for style in styles}
    return {"__key__": concept.key, "json": _json(text), **images}


def _write_set(folder: Path, plan: SetPlan, encoded: Drawings) -> None:
    """CLIP_benchmark's webdataset layout. The tar is compressed, which webdataset sees by itself: of files this
    small, two thirds of a plain tar are headers and padding."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    names = [concept.label for concept in plan.classes]
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    templates = "".join(f"{template}\n" for template in TEMPLATES)
    (folder / "zeroshot_classification_templates.txt").write_text(templates, encoding="utf-8")
    (folder / "test" / "nshards.txt").write_text("1\n")
    labels = {concept.key: number for number, concept in enumerate(plan.classes)}
    plain = io.BytesIO()
    with TarWriter(plain, **TAR) as writer:
        for key, style in plan.drawings:
            concept = plan.classes[labels[key]]
            text = {"caption": caption(concept, style, SEED), "label": concept.label, "style": style}
            writer.write(
                {
                    "__key__": f"{key}_{style}",
                    "webp": encoded[style][key],
                    "cls": str(labels[key]).encode(),
                    "json": _json(text),
                }
            )
    (folder / "test" / "0.tar").write_bytes(gzip.compress(plain.getvalue(), mtime=0))


def _statistics(
    known: list[Concept],
    splits: Splits,
    joined: Drawings,
    shared: dict[str, int],
    drawings: Drawings,
    encoded: Drawings,
) -> dict[str, Any]:
    core = {concept.key for concept in known if concept.core}
    styles = {
        style: {
            "joined": len(joined[style]),
            "unmatched": len(known) - len(joined[style]),
            "shared_left_out": shared[style],
            "kept": len(drawings[style]),
            "kept_core": len(core & set(drawings[style])),
            "coding_error": round(
                fmean(coding_error(pixels, encoded[style][key]) for key, pixels in drawings[style].items()), 2
            ),
        }
        for style in drawings
    }
    return {
        "concepts": len(known),
        "core": len(core),
        "seen": len(splits.seen),
        "unseen": len(splits.unseen),
        "trained": len(splits.train),
        "trained_drawings": sum(map(len, splits.train.values())),
        "pixels": SIZE,
        "styles": styles,
    }


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
