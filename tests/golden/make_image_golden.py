"""Writes eval_image.npz: the pixels that open_clip's transform for evaluation makes of `pictures`.

    make peers && .venv-peers/bin/python tests/golden/make_image_golden.py

The pictures are made of whole numbers alone, so they are the same wherever they are made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE = 32  # pixels a side that is asked for
SIZES = [
    (33, 50),
    (50, 33),
    (31, 97),
    (97, 31),
    (225, 301),
    (301, 225),
    (32, 35),  # 3 pixels too many: the crop's offset of 1.5 is rounded to 2
    (37, 32),  # 5 pixels too many: 2.5 is rounded to 2, too
    (64, 65),
    (7, 9),
    (1, 40),
    (32, 32),
    (500, 333),
]
MODES = ("1", "L", "LA", "P", "CMYK", "RGBA", "I;16")


def picture(width: int, height: int) -> Image.Image:
    """RGB: a ramp, stripes of a pixel and a coarse chequer, which resizing and cropping treat each in its way."""
    across, down = np.arange(width)[None, :], np.arange(height)[:, None]
    red = across * 255 // max(1, width - 1) + 0 * down
    green = (across * across * 7 + down * 31) % 256
    blue = (across // 5 + down // 3) % 2 * 200 + down % 3 * 20
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def in_mode(mode: str) -> Image.Image:
    """One picture in another of Pillow's modes; half of it is transparent where there is transparency."""
    image = picture(57, 41)
    if mode == "P":
        return image.quantize(16, dither=Image.Dither.NONE)
    if mode in ("LA", "RGBA"):
        columns = np.arange(57) // 8 % 2 * 255
        image.putalpha(Image.fromarray(np.tile(columns.astype(np.uint8), (41, 1))))
        return image.convert(mode)
    if mode == "CMYK":  # with black ink, whose product with the others is what makes the order of steps matter
        return Image.merge("CMYK", (*image.split(), image.split()[2]))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def pictures() -> dict[str, Image.Image]:
    """All inputs by name. `… as RGB` is what the peer is given where it would treat a mode in another way."""
    found = {f"{width}x{height}": picture(width, height) for width, height in SIZES}
    found |= {mode: in_mode(mode) for mode in MODES}
    return found | {f"{mode} as RGB": in_mode(mode).convert("RGB") for mode in ("1", "P", "CMYK")}


def main() -> None:
    sys.path.insert(0, str(HERE.parent / "peers"))
    from peer import open_clip

    transform = open_clip.image_transform(SIZE, is_train=False)
    found = {}
    for name, image in pictures().items():
        pixels = image
        for step in transform.transforms[:-2]:  # all but the last two, to float and normalised
            pixels = step(pixels)
        found[name] = np.array(pixels)
    found["33x50 normalised"] = transform(pictures()["33x50"]).numpy()
    np.savez_compressed(HERE / "eval_image.npz", **found)


if __name__ == "__main__":
    main()
