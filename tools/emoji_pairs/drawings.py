"""From icons to pictures: SVG rendered with resvg on white, stored as WebP."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from diptych.base.errors import UserError
from emoji_pairs.concepts import Concept, join
from emoji_pairs.packages import Contents, Package

SIZE = 64
QUALITY = 75  # WebP's; the mean error is in statistics.json
# The 3D set has no code points; its names are those of the flat set.
BORROWED_CODES = {"fluent-3d": "fluent-flat"}
# Found by eye, beside the same concept in noto: piano keys called "keyboard", and a tram whose colours are
# missing in the package.
WRONG = frozenset({("emojione-v1", "2328"), ("fxemoji", "2328"), ("fxemoji", "1f68b")})

Sources = dict[str, dict[str, str]]  # style -> concept key -> SVG
Drawings = dict[str, dict[str, bytes]]  # style -> concept key -> RGB pixels, SIZE × SIZE × 3 bytes


def collect(known: list[Concept], packages: list[tuple[Package, Contents]]) -> Sources:
    """The SVG of every drawing of every concept."""
    chars = {pin.style: contents["chars.json"] for pin, contents in packages}
    found: Sources = {}
    for pin, contents in packages:
        assert pin.style is not None
        icons = contents["icons.json"]
        joined = join(known, icons, chars[BORROWED_CODES.get(pin.style, pin.style)])
        found[pin.style] = {key: svg(icons, name) for key, name in joined.items() if (pin.style, key) not in WRONG}
    return found


def draw(sources: Sources) -> Drawings:
    """Every drawing. Raises UserError when resvg is not installed."""
    return {style: {key: render(image) for key, image in of.items()} for style, of in sources.items()}


def svg(icons: Mapping[str, Any], name: str) -> str:
    """A whole SVG from an icon's body; `currentColor`, which one-coloured sets use, is black."""
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(field, icons.get(field, default))
        for field, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    body = icon["body"].replace("currentColor", "#000")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def render(image: str) -> bytes:
    """SVG -> RGB pixels on white, SIZE × SIZE × 3 bytes, the same on every machine (no system fonts)."""
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(
            "source=emoji renders with resvg-py: install it with pip install 'diptych[study]'."
        ) from error
    png = resvg_py.svg_to_bytes(svg_string=image, width=SIZE, height=SIZE, background="white", skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB").tobytes()


def drop_shared(drawings: Drawings) -> Drawings:
    """Leave out pictures that one style uses for several concepts.

    Such a picture (one family for all families, one heart for three colours) has several right names: in training it
    is a false negative of the others, and in an evaluation no answer is the right one.
    """
    kept: Drawings = {}
    for style, pictures in drawings.items():
        uses = Counter(pictures.values())
        kept[style] = {key: picture for key, picture in pictures.items() if uses[picture] == 1}
    return kept


def encode(pixels: bytes) -> bytes:
    """RGB pixels -> WebP."""
    out = io.BytesIO()
    Image.frombytes("RGB", (SIZE, SIZE), pixels).save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def coding_error(pixels: bytes, data: bytes) -> float:
    """Mean absolute error of a stored picture, in levels of 255."""
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)
    return float(np.abs(stored.ravel() - np.frombuffer(pixels, np.uint8)).mean())
