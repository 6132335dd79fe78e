"""Redrawn icons: what other hands might have made of the same shapes, in lines and in black and white.

An icon is a stack of filled shapes. Shading (what is translucent, or a shade away from what was just painted) is left
out, and the rest gets other fills and strokes. Variants are training pictures only.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from copy import deepcopy
from random import Random
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.packing.emoji_drawings import SIZE, Sources, render
from diptych.packing.emoji_shapes import Colour, Shape, luma, shapes
from diptych.packing.emoji_splits import Drawing, Splits

WIDTHS = (0.022, 0.045)  # of strokes, against the picture's width
SHADE = 0.16  # distance of two RGB colours (of 0–1) below which the later one shades the earlier
DARK = 0.3  # luma below which line art fills a shape with black
THRESHOLDS = (0.35, 0.65)  # of black and white
OUTLINED = 0.6  # share of drawings that also get the outlined version: what 25 MB leave room for
LEVELS = 4  # of each channel in a stored variant
WHITE = 230  # level above which paper is bare
OVERLAP, INK = 0.75, 0.7  # a variant covers what its drawing does, and isn't a black blob

Paint = Callable[[Colour], tuple[str, str]]  # a shape's colour -> its new fill and stroke, as SVG names them
Variants = dict[Drawing, dict[str, bytes]]  # of a training drawing: name -> WebP


def redraw(splits: Splits, sources: Sources, seed: int) -> tuple[Variants, int]:
    """Variants of the training drawings of seen concepts, and how many were left out as nobody would draw them."""
    kept: Variants = {}
    left_out = 0
    for concept in splits.seen:
        for style in splits.train.get(concept.key, ()):
            image = sources[style][concept.key]
            drawn = pixels(render(image))
            made = {
                name: pixels(render(svg)) for name, svg in variants(image, f"{seed}/{concept.key}/{style}").items()
            }
            good = {name: encode(variant) for name, variant in made.items() if is_drawing(variant, drawn)}
            left_out += len(made) - len(good)
            kept[concept.key, style] = good
    return kept, left_out


def variants(image: str, seed: str) -> dict[str, str]:
    """An SVG -> one in black and white (`line` or `contrast`) and, for most, one in its colours with outlines."""
    random = Random(seed)
    threshold = random.uniform(*THRESHOLDS)

    def line(colour: Colour) -> tuple[str, str]:
        return ("#000" if luma(colour) < DARK else "#fff"), "#000"

    def contrast(colour: Colour) -> tuple[str, str]:
        return ("#000", "#fff") if luma(colour) < threshold else ("#fff", "#000")

    def outlined(colour: Colour) -> tuple[str, str]:
        return "#" + "".join(f"{round(255 * channel):02x}" for channel in colour), "#000"

    chosen: dict[str, Paint] = {"line": line} if random.random() < 0.5 else {"contrast": contrast}
    if random.random() < OUTLINED:
        chosen["outlined"] = outlined
    return {name: repaint(image, paint, random.uniform(*WIDTHS)) for name, paint in chosen.items()}


def repaint(image: str, paint: Paint, width: float) -> str:
    """An SVG with its shapes' fills and strokes as `paint` says, without shading; width: of strokes."""
    root = ElementTree.fromstring(image)
    left, top, across, down = (float(number) for number in root.attrib["viewBox"].split())
    stroke = width * max(across, down)
    margin = stroke / 2  # half of a stroke lies beyond its shape
    root.set("viewBox", f"{left - margin:g} {top - margin:g} {across + 2 * margin:g} {down + 2 * margin:g}")
    painted: list[Colour] = []
    for shape in shapes(root):
        colour = shape.fill or shape.stroke
        # The same colour again is another part (a second leg); nearly the same one is the first part's shadow.
        if colour is None or any(0 < math.dist(colour, earlier) < SHADE for earlier in painted[-3:]):
            shape.parent.remove(shape.element)
            continue
        painted.append(colour)
        fill, line = paint(colour)
        _restyle(shape, fill, line, stroke / shape.scale)
    for element in root.iter():
        for name in ("opacity", "fill-opacity", "stroke-opacity"):
            element.attrib.pop(name, None)
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(shape: Shape, fill: str, line: str, stroke: float) -> None:
    element = shape.element
    element.set("stroke-linejoin", "round")
    if shape.fill is not None:
        element.attrib.update({"fill": fill, "stroke": line, "stroke-width": f"{stroke:g}"})
        return
    # A stroke that is a band of its own: the line beneath, showing on both sides of it.
    beneath = deepcopy(element)
    beneath.attrib.update({"fill": "none", "stroke": line, "stroke-width": f"{shape.width + stroke:g}"})
    shape.parent.insert(list(shape.parent).index(element), beneath)
    element.attrib.update({"fill": "none", "stroke": fill, "stroke-width": f"{max(shape.width - stroke, 0):g}"})


def pixels(drawing: bytes) -> NDArray[np.uint8]:
    """[SIZE, SIZE, 3]"""
    return np.frombuffer(drawing, np.uint8).reshape(SIZE, SIZE, 3)


def is_drawing(variant: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> bool:
    """Whether no large part is missing and the variant is neither empty nor a blob."""
    box, other = _box(variant), _box(drawn)
    if box is None or other is None or (variant < 128).all(axis=2).mean() > INK:
        return False
    both = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = float(np.prod(np.maximum(both, 0)))
    areas = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]))
    return shared / (areas - shared) >= OVERLAP


def _box(picture: NDArray[np.uint8]) -> NDArray[np.intp] | None:
    """First row and column that isn't bare paper, and the ones after the last; None for an empty sheet."""
    inked = np.argwhere((picture < WHITE).any(axis=2))
    return np.concatenate([inked.min(axis=0), inked.max(axis=0) + 1]) if len(inked) else None


def encode(variant: NDArray[np.uint8]) -> bytes:
    """Lossless WebP of LEVELS levels a channel: for a few flat areas and lines smaller than a lossy one."""
    step = 255 / (LEVELS - 1)
    levels = (np.round(variant / step) * step).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()
