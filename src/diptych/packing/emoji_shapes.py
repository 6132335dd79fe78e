"""The shapes of an icon's SVG as they are seen: their colours with opacity and inheritance worked out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from xml.etree.ElementTree import Element

from PIL import ImageColor

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = frozenset(f"{SVG}{name}" for name in ("path", "circle", "ellipse", "rect", "polygon", "line", "use"))
GRADIENTS = frozenset((f"{SVG}linearGradient", f"{SVG}radialGradient"))
ASIDE = GRADIENTS | {
    f"{SVG}{name}" for name in ("defs", "clipPath", "mask", "symbol")
}  # not painted where they stand
INHERITED = ("fill", "stroke", "stroke-width", "fill-opacity", "stroke-opacity")
SEEN = 0.5  # opacity below which a paint is but shading

Colour = tuple[float, float, float]  # red, green, blue, 0–1


@dataclass(frozen=True)
class Shape:
    """A painted element: fill and stroke as one colour each, None where hardly seen; the stroke's width and the
    scale of its coordinates against the picture's."""

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
    """Gradients by id: mean colour and mean opacity of their stops; one without stops borrows another's."""
    elements = {element.get("id", ""): element for element in root.iter() if element.tag in GRADIENTS}
    found = {}
    for name, element in elements.items():
        lender = element.get("href") or element.get("{http://www.w3.org/1999/xlink}href") or ""
        stops = element.findall(f"{SVG}stop") or elements.get(lender[1:], element).findall(f"{SVG}stop")
        if stops:
            colours = [_parse(stop.get("stop-color", "#000"))[0] for stop in stops]
            red, green, blue = (fmean(channel) for channel in zip(*colours, strict=True))
            found[name] = (red, green, blue), fmean(float(stop.get("stop-opacity", 1)) for stop in stops)
    return found


def _scale(transform: str) -> float:
    """How much longer a transform makes lines, in the mean over directions."""
    scale = 1.0
    for name, text in re.findall(r"(matrix|scale)\(([^)]*)\)", transform):
        numbers = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?", text)]
        area = numbers[0] * numbers[3] - numbers[1] * numbers[2] if name == "matrix" else numbers[0] * numbers[-1]
        scale *= math.sqrt(abs(area))
    return scale
