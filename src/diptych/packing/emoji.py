"""The embedded pairs: emoji of eleven drawing styles as training shards and evaluation sets.

One text concept, many hands: five styles are trained on, the others are natural shifts of it. A training
sample is a concept with its drawings and captions, so a batch of samples holds no two of one concept.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from diptych.base.files import write_json
from diptych.packing.emoji_concepts import Concept, concepts
from diptych.packing.emoji_drawings import SIZE, coding_error, collect, draw, drop_shared, encode
from diptych.packing.emoji_packages import Contents, Package, fetch, load, pinned
from diptych.packing.emoji_splits import Splits, plan_sets, split
from diptych.packing.emoji_variants import redraw
from diptych.packing.emoji_write import write_set, write_train

SEED = 0
UNSEEN = 120  # concepts
HELD_OUT = 540  # drawings


def pack(path: str | None, out: str) -> None:
    """Write training shards, evaluation sets and statistics to `out`; the same packages give the same bytes.

    path: a folder with the npm packages; None fetches them
    Raises UserError when a package or a tool is missing, or a package isn't what is pinned.
    """
    pins = pinned()
    folder = fetch(pins) if path is None else Path(path)
    (_, names), *styles = load(pins, folder)
    build(names, styles, Path(out), unseen=UNSEEN, held_out=HELD_OUT)


def build(names: Contents, styles: list[tuple[Package, Contents]], out: Path, unseen: int, held_out: int) -> None:
    """names: emojibase's files; styles: a package of drawings each; see `pack` and `split`."""
    groups = names["meta/groups.json"]["groups"]
    known = concepts(names["en/data.json"], groups, names["meta/unicode-names.json"])
    sources = collect(known, styles)
    joined = draw(sources)
    drawings = drop_shared(joined)
    splits = split(known, drawings, SEED, unseen, held_out)
    encoded = {style: {key: encode(pixels) for key, pixels in of.items()} for style, of in drawings.items()}
    variants, left_out = redraw(splits, sources, SEED)
    write_train(out / "train", known, splits, encoded, variants, SEED)
    sets = plan_sets(splits, drawings)
    for plan in sets:
        write_set(out / "eval" / plan.name, plan, encoded, SEED)
    write_json(out / "eval" / "sets.json", {plan.name: plan.describe() for plan in sets})
    redrawn = {"variants": sum(map(len, variants.values())), "variants_left_out": left_out}
    styles_written = {style: _statistics(known, joined[style], drawings[style], encoded[style]) for style in drawings}
    write_json(out / "statistics.json", {**_counts(known, splits), **redrawn, "styles": styles_written})


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
    """What became of one style: matched, left out as shared, kept, and WebP's mean error in levels of 255."""
    errors = [coding_error(pixels, encoded[key]) for key, pixels in kept.items()]
    return {
        "joined": len(joined),
        "unmatched": len(known) - len(joined),
        "shared_left_out": len(joined) - len(kept),
        "kept": len(kept),
        "kept_core": sum(concept.core and concept.key in kept for concept in known),
        "coding_error": round(fmean(errors), 2),
    }
