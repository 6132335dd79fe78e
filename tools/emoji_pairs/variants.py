"""Icons redrawn in other styles: in lines, in black and white, or in their own colours with outlines.

An icon is a stack of filled shapes. Shading (a translucent shape, or one almost in the colour just painted) is left
out, and the rest gets other fills and strokes. Variants are training pictures only.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from statistics import fmean
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from emoji_pairs.drawings import SIZE, Sources, render
from emoji_pairs.splits import Drawing, Splits

WIDTHS = (0.022, 0.045)  # of strokes, against the picture's width
SHADE = 0.16  # distance of two RGB colours (of 0–1) below which the later one shades the earlier
DARK = 0.3  # luma below which line art fills a shape with black
THRESHOLDS = (0.35, 0.65)  # of black and white
OUTLINED = 0.6  # share of drawings that also get the outlined version: what 25 MB leave room for
LEVELS = 4  # of each channel in a stored variant
WHITE = 230  # level of the emptiest ink: what is brighter is paper
OVERLAP, INK = 0.75, 0.7  # least overlap with the drawing, largest share of black pixels
SVG = "{http://www.w3.org/2000/svg}"
SHAPES = frozenset(f"{SVG}{name}" for name in ("path", "circle", "ellipse", "rect", "polygon", "line", "use"))
GRADIENTS = frozenset((f"{SVG}linearGradient", f"{SVG}radialGradient"))
# Not painted at their place in the file.
ASIDE = GRADIENTS | {f"{SVG}{name}" for name in ("defs", "clipPath", "mask", "symbol")}
INHERITED = ("fill", "stroke", "stroke-width", "fill-opacity", "stroke-opacity")
SEEN = 0.5  # opacity below which a paint is only shading

Colour = tuple[float, float, float]  # red, green, blue, 0–1
Paint = Callable[[Colour], tuple[str, str]]  # a shape's colour -> its new fill and stroke, as SVG names them
Variants = dict[Drawing, dict[str, bytes]]  # of a training drawing: name -> WebP


def redraw(splits: Splits, sources: Sources, seed: int) -> tuple[Variants, int]:
    """Variants of the training drawings of seen concepts, and how many were left out as bad drawings."""
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
    # The shape is a stroke only: draw a wider line beneath it, which shows on both sides.
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
    """First row and column with ink, and those after the last with ink; None for an empty sheet."""
    inked = np.argwhere((picture < WHITE).any(axis=2))
    return np.concatenate([inked.min(axis=0), inked.max(axis=0) + 1]) if len(inked) else None


def encode(variant: NDArray[np.uint8]) -> bytes:
    """Lossless WebP of LEVELS levels a channel: smaller than lossy WebP for a few flat areas and lines."""
    step = 255 / (LEVELS - 1)
    levels = (np.round(variant / step) * step).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()


@dataclass(frozen=True)
class Shape:
    """A painted element.

    fill, stroke: one colour each, None where it is hardly visible
    width: of the stroke; scale: of the element's coordinates against the picture's
    """

    element: Element
    parent: Element
    fill: Colour | None
    stroke: Colour | None
    width: float
    scale: float


def luma(colour: Colour) -> float:
    """Brightness, 0–1 (ITU-R BT.601)."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def shapes(root: Element) -> list[Shape]:
    """All shapes in the order in which they are painted."""
    return list(_below(root, {}, 1.0, 1.0, _gradients(root)))


def _below(
    parent: Element,
    given: Mapping[str, str],
    opacity: float,
    scale: float,
    gradients: Mapping[str, tuple[Colour, float]],
) -> Iterator[Shape]:
    for element in parent:
        if element.tag in ASIDE:
            continue
        style = {**given, **{name: element.attrib[name] for name in INHERITED if name in element.attrib}}
        seen = opacity * float(element.get("opacity", 1))
        larger = scale * _scale(element.get("transform", ""))
        if element.tag in SHAPES:
            fill = _seen(style.get("fill", "#000"), seen * float(style.get("fill-opacity", 1)), gradients)
            stroke = _seen(style.get("stroke", "none"), seen * float(style.get("stroke-opacity", 1)), gradients)
            yield Shape(element, parent, fill, stroke, float(style.get("stroke-width", 1)), larger)
        else:
            yield from _below(element, style, seen, larger, gradients)


def _seen(paint: str, opacity: float, gradients: Mapping[str, tuple[Colour, float]]) -> Colour | None:
    if paint == "none":
        return None
    if paint.startswith("url(#"):
        if paint[5:-1] not in gradients:
            return None
        colour, alpha = gradients[paint[5:-1]]
    else:
        colour, alpha = _parse(paint)
    return colour if opacity * alpha >= SEEN else None


def _parse(text: str) -> tuple[Colour, float]:
    """A colour as SVG writes it -> RGB and opacity."""
    if text.startswith("rgba("):
        red, green, blue, alpha = (float(number) for number in text[5:-1].split(","))
    else:
        (red, green, blue), alpha = ImageColor.getrgb(text)[:3], 1.0
    return (red / 255, green / 255, blue / 255), alpha


def _gradients(root: Element) -> dict[str, tuple[Colour, float]]:
    """Gradients by id: mean colour and mean opacity of their stops, or of those of the gradient that one links to."""
    elements = {element.get("id", ""): element for element in root.iter() if element.tag in GRADIENTS}
    found = {}
    for name, element in elements.items():
        linked = element.get("href") or element.get("{http://www.w3.org/1999/xlink}href") or ""
        stops = element.findall(f"{SVG}stop") or elements.get(linked[1:], element).findall(f"{SVG}stop")
        if stops:
            colours = [_parse(stop.get("stop-color", "#000"))[0] for stop in stops]
            red, green, blue = (fmean(channel) for channel in zip(*colours, strict=True))
            found[name] = (red, green, blue), fmean(float(stop.get("stop-opacity", 1)) for stop in stops)
    return found


def _scale(transform: str) -> float:
    """How much longer a transform makes lines, averaged over directions."""
    scale = 1.0
    for name, text in re.findall(r"(matrix|scale)\(([^)]*)\)", transform):
        numbers = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?", text)]
        area = numbers[0] * numbers[3] - numbers[1] * numbers[2] if name == "matrix" else numbers[0] * numbers[-1]
        scale *= math.sqrt(abs(area))
    return scale
