"""Emoji in eleven drawing styles: webdataset shards for training, and evaluation sets in CLIP_benchmark's layout.

Five styles are trained on, the others are natural shifts of the same concepts. A training sample is one concept with
all its drawings and captions, so no batch holds two samples of one concept.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from webdataset import ShardWriter, TarWriter

from diptych.base.files import write, write_json
from diptych.packing.writing import TAR
from emoji_pairs.captions import caption, captions
from emoji_pairs.concepts import Concept, concepts
from emoji_pairs.drawings import SIZE, Drawings, coding_error, collect, draw, drop_shared, encode
from emoji_pairs.packages import Contents, Package, fetch, load, pinned
from emoji_pairs.splits import SetPlan, Splits, plan_sets, split
from emoji_pairs.variants import Variants, redraw

SEED = 0
UNSEEN = 120  # concepts
HELD_OUT = 540  # drawings
SHARDS = 4
TEMPLATES = ("{c}", "a drawing of a {c}.", "a picture of a {c}.", "an icon of a {c}.", "an emoji of a {c}.")


def pack(path: str | None, out: str) -> None:
    """Write training shards, evaluation sets and statistics to `out`. The same packages give the same bytes.

    path: a folder with the npm packages; None fetches them
    Raises UserError when a package or a tool is missing, or a package differs from the pinned one.
    """
    pins = pinned()
    folder = fetch(pins) if path is None else Path(path)
    (_, names), *styles = load(pins, folder)
    build(names, styles, Path(out), unseen=UNSEEN, held_out=HELD_OUT)


def build(names: Contents, styles: list[tuple[Package, Contents]], out: Path, unseen: int, held_out: int) -> None:
    """names: emojibase's files; styles: the package of each drawing style; see `pack` and `split`."""
    groups = names["meta/groups.json"]["groups"]
    known = concepts(names["en/data.json"], groups, names["meta/unicode-names.json"])
    sources = collect(known, styles)
    joined = draw(sources)
    drawings = drop_shared(joined)
    splits = split(known, drawings, SEED, unseen, held_out)
    encoded = {style: {key: encode(pixels) for key, pixels in of.items()} for style, of in drawings.items()}
    variants, left_out = redraw(splits, sources, SEED)
    write_train(out / "train", known, splits, encoded, variants)
    sets = plan_sets(splits, drawings)
    for plan in sets:
        write_set(out / "eval" / plan.name, plan, encoded)
    write_json(out / "eval" / "sets.json", {plan.name: plan.describe() for plan in sets})
    redrawn = {"variants": sum(map(len, variants.values())), "variants_left_out": left_out}
    styles_written = {style: _statistics(known, joined[style], drawings[style], encoded[style]) for style in drawings}
    write_json(out / "statistics.json", {**_counts(known, splits), **redrawn, "styles": styles_written})


def write_train(folder: Path, known: list[Concept], splits: Splits, encoded: Drawings, variants: Variants) -> None:
    """SHARDS shards for core concepts and as many for the others. In each, the concepts are shuffled, so that no
    shard has a single topic. `index.json` lists all shards, `core.json` those of the core concepts."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = []
    for core in (True, False):
        trained = [concept for concept in known if concept.key in splits.train and concept.core is core]
        Random(f"{SEED}/shards").shuffle(trained)
        samples = [_sample(concept, splits.train[concept.key], encoded, variants) for concept in trained]
        shards += _write_shards(folder, samples, len(shards))
        if core:
            write_json(folder / "core.json", {"version": 1, "shards": shards})
    write_json(folder / "index.json", {"version": 1, "shards": shards})


def _write_shards(folder: Path, samples: list[dict[str, str | bytes]], start: int) -> list[dict[str, Any]]:
    """-> the shards' entries in the index. start: number of the first shard"""
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


def _sample(concept: Concept, styles: list[str], encoded: Drawings, variants: Variants) -> dict[str, str | bytes]:
    text = {
        "label": concept.label,
        "captions": captions(concept, SEED),
        "group": concept.group,
        "tags": concept.tags,
    }
    images = {f"{style}.webp": encoded[style][concept.key] for style in styles}
    for style in styles:
        images |= {f"{style}~{name}.webp": data for name, data in variants.get((concept.key, style), {}).items()}
    return {"__key__": concept.key, "json": _json(text), **images}


def write_set(folder: Path, plan: SetPlan, encoded: Drawings) -> None:
    """One evaluation set. Its tar is compressed, because two thirds of a plain tar of such small files are headers
    and padding. webdataset recognises a compressed tar."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "classnames.txt", [concept.label for concept in plan.classes])
    _write_lines(folder / "zeroshot_classification_templates.txt", TEMPLATES)
    _write_lines(folder / "test" / "nshards.txt", ["1"])
    labels = {concept.key: number for number, concept in enumerate(plan.classes)}
    plain = io.BytesIO()
    with TarWriter(plain, **TAR) as writer:
        for key, style in plan.drawings:
            concept = plan.classes[labels[key]]
            text = {"caption": caption(concept, style, SEED), "label": concept.label, "style": style}
            image, label = encoded[style][key], str(labels[key]).encode()
            writer.write({"__key__": f"{key}_{style}", "webp": image, "cls": label, "json": _json(text)})
    write(folder / "test" / "0.tar", gzip.compress(plain.getvalue(), mtime=0))


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write(path, "".join(f"{line}\n" for line in lines))


def _counts(known: list[Concept], splits: Splits) -> dict[str, int]:
    return {
        "pixels": SIZE,
        "concepts": len(known),
        "core": sum(concept.core for concept in known),
        "seen": len(splits.seen),
        "unseen": len(splits.unseen),
        "trained": len(splits.train),
        "trained_drawings": sum(map(len, splits.train.values())),
    }


def _statistics(
    known: list[Concept], joined: dict[str, bytes], kept: dict[str, bytes], encoded: dict[str, bytes]
) -> dict[str, Any]:
    """Counts of one style: matched, left out because shared, kept; and WebP's mean error in levels of 255."""
    errors = [coding_error(pixels, encoded[key]) for key, pixels in kept.items()]
    return {
        "joined": len(joined),
        "unmatched": len(known) - len(joined),
        "shared_left_out": len(joined) - len(kept),
        "kept": len(kept),
        "kept_core": sum(concept.core and concept.key in kept for concept in known),
        "coding_error": round(fmean(errors), 2),
    }
