"""The embedded pairs on disk: webdataset shards with their index, and sets in CLIP_benchmark's layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
from pathlib import Path
from random import Random
from typing import Any

from webdataset import ShardWriter, TarWriter

from diptych.base.files import write, write_json
from diptych.packing.emoji_captions import caption, captions
from diptych.packing.emoji_concepts import Concept
from diptych.packing.emoji_drawings import Drawings
from diptych.packing.emoji_splits import SetPlan, Splits
from diptych.packing.emoji_variants import Variants
from diptych.packing.writing import TAR

SHARDS = 4
TEMPLATES = ("{c}", "a drawing of a {c}.", "a picture of a {c}.", "an icon of a {c}.", "an emoji of a {c}.")


def write_train(
    folder: Path, known: list[Concept], splits: Splits, encoded: Drawings, variants: Variants, seed: int
) -> None:
    """SHARDS shards for core concepts and as many for the others; in each, concepts in a seeded order, so that no
    shard is one topic. `index.json` lists all of them, `core.json` those that the classes come from."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = []
    for core in (True, False):
        trained = [concept for concept in known if concept.key in splits.train and concept.core is core]
        Random(f"{seed}/shards").shuffle(trained)
        shards += _write_shards(
            folder, [_sample(c, splits.train[c.key], encoded, variants, seed) for c in trained], len(shards)
        )
        if core:
            write_json(folder / "core.json", {"version": 1, "shards": shards})
    write_json(folder / "index.json", {"version": 1, "shards": shards})


def _write_shards(folder: Path, samples: list[dict[str, str | bytes]], start: int) -> list[dict[str, Any]]:
    size = math.ceil(len(samples) / SHARDS)
    pattern = str(folder / "train-%06d.tar")
    with ShardWriter(pattern, maxcount=size, start_shard=start, verbose=0, **TAR) as writer:
        for sample in samples:
            writer.write(sample)
    entries = []
    for number, first in enumerate(range(0, len(samples), size), start):
        name = f"train-{number:06d}.tar"
        data = (folder / name).read_bytes()
        count = len(samples[first : first + size])
        digest = hashlib.sha256(data).hexdigest()
        entries.append({"path": name, "samples": count, "bytes": len(data), "sha256": digest})
    return entries


def _sample(
    concept: Concept, styles: list[str], encoded: Drawings, variants: Variants, seed: int
) -> dict[str, str | bytes]:
    text = {
        "label": concept.label,
        "captions": captions(concept, seed),
        "group": concept.group,
        "tags": concept.tags,
    }
    images = {f"{style}.webp": encoded[style][concept.key] for style in styles}
    for style in styles:
        images |= {f"{style}~{name}.webp": data for name, data in variants.get((concept.key, style), {}).items()}
    return {"__key__": concept.key, "json": _json(text), **images}


def write_set(folder: Path, plan: SetPlan, encoded: Drawings, seed: int) -> None:
    """One evaluation set. Its tar is compressed, which webdataset sees by itself: with files this small, two
    thirds of a plain tar are headers and padding."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "classnames.txt", [concept.label for concept in plan.classes])
    _write_lines(folder / "zeroshot_classification_templates.txt", TEMPLATES)
    _write_lines(folder / "test" / "nshards.txt", ["1"])
    labels = {concept.key: number for number, concept in enumerate(plan.classes)}
    plain = io.BytesIO()
    with TarWriter(plain, **TAR) as writer:
        for key, style in plan.drawings:
            concept = plan.classes[labels[key]]
            text = {"caption": caption(concept, style, seed), "label": concept.label, "style": style}
            image, label = encoded[style][key], str(labels[key]).encode()
            writer.write({"__key__": f"{key}_{style}", "webp": image, "cls": label, "json": _json(text)})
    write(folder / "test" / "0.tar", gzip.compress(plain.getvalue(), mtime=0))


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _write_lines(path: Path, lines: list[str] | tuple[str, ...]) -> None:
    write(path, "".join(f"{line}\n" for line in lines))
