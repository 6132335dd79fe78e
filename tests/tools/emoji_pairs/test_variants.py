"""Redrawn icons: what is painted how, what is left out, and that nobody's blob is trained on."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from emoji_samples import concept

from emoji_pairs.drawings import SIZE, render
from emoji_pairs.splits import Splits
from emoji_pairs.variants import is_drawing, luma, pixels, redraw, repaint, shapes, variants

RED, PALE, DARK_GREEN = "#e02020", "#e83030", "#003000"


def icon(body: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 32 32">{body}</svg>'


def square(colour: str, x: int = 4, more: str = "") -> str:
    return f'<rect x="{x}" y="4" width="10" height="24" fill="{colour}" {more}/>'


def fills(image: str) -> list[str]:
    return [e.attrib["fill"] for e in ElementTree.fromstring(image).iter() if "fill" in e.attrib]


def white_with_lines(colour: tuple[float, float, float]) -> tuple[str, str]:
    return ("#000" if luma(colour) < 0.3 else "#fff"), "#000"


def test_shading_goes_and_equal_parts_stay() -> None:
    body = square(RED) + square(PALE, 6) + square(RED, 18) + square(DARK_GREEN, 8) + square("#00f", 2, 'opacity=".2"')
    assert fills(repaint(icon(body), white_with_lines, 0.03)) == ["#fff", "#fff", "#000"]


@pytest.mark.parametrize(
    ("body", "colour"),
    [
        ('<g fill="#f00"><path d="M0 0h9v9z"/></g>', (1, 0, 0)),
        ('<path d="M0 0h9v9z"/>', (0, 0, 0)),
        ('<g opacity=".6"><g opacity=".6"><path fill="red" d="M0 0h9v9z"/></g></g>', None),
        ('<path fill="rgba(255, 0, 0, .3)" d="M0 0h9v9z"/>', None),
        ('<linearGradient id="a"><stop stop-color="#f00"/><stop stop-color="#00f"/></linearGradient>'
         '<linearGradient id="b" href="#a"/><path fill="url(#b)" d="M0 0h9v9z"/>', (0.5, 0, 0.5)),
        ('<defs><path id="p" d="M0 0h9v9z"/></defs><use href="#p" fill="#0f0"/>', (0, 1, 0)),
    ],
    ids=["inherited", "default", "translucent group", "rgba", "borrowed gradient", "use"],
)  # fmt: skip
def test_a_shapes_colour_is_what_is_seen(body: str, colour: tuple[float, ...] | None) -> None:
    (shape,) = shapes(ElementTree.fromstring(icon(body)))
    assert shape.fill == colour


def test_strokes_are_as_wide_in_a_scaled_group() -> None:
    plain = square(RED)
    scaled = '<g transform="scale(2)"><rect x="2" y="2" width="5" height="12" fill="#e02020"/></g>'
    one, two = (render(repaint(icon(body), white_with_lines, 0.05)) for body in (plain, scaled))
    assert np.abs(pixels(one).astype(int) - pixels(two)).max() <= 8


def test_a_bare_stroke_becomes_a_band_with_a_line_on_both_sides() -> None:
    body = '<path d="M16 0v32" fill="none" stroke="#f4f4f4" stroke-width="10"/>'
    row = pixels(render(repaint(icon(body), white_with_lines, 0.06)))[SIZE // 2, :, 0]
    assert row[SIZE // 2] == 255
    assert (row < 64).sum() in range(4, 11)


def test_variants_follow_from_their_seed() -> None:
    image = icon(square(RED) + square(DARK_GREEN, 18))
    assert variants(image, "a") == variants(image, "a")
    names = [tuple(variants(image, str(seed))) for seed in range(40)]
    assert {name for made in names for name in made} == {"line", "contrast", "outlined"}
    assert all(len({"line", "contrast"} & set(made)) == 1 for made in names)


def test_a_blob_an_empty_sheet_and_a_part_are_no_drawings() -> None:
    drawn = np.full((SIZE, SIZE, 3), 255, np.uint8)
    drawn[4:60, 4:60] = (200, 40, 40)
    outline = drawn.copy()
    outline[8:56, 8:56] = 255
    part = np.full_like(drawn, 255)
    part[30:60, 30:60] = 0
    assert is_drawing(outline, drawn)
    assert not is_drawing(np.zeros_like(drawn), drawn)
    assert not is_drawing(np.full_like(drawn, 255), drawn)
    assert not is_drawing(part, drawn)


def test_only_training_drawings_of_seen_concepts_are_redrawn_and_bad_ones_are_counted() -> None:
    seen, other = concept("1", "one"), concept("3", "three", group="people-body")
    good, bad = icon(square(RED) + square(DARK_GREEN, 18)), icon(square(RED, 4, 'opacity=".2"'))
    sources = {"noto": {"1": good, "2": good, "3": good}, "twemoji": {"1": bad}, "emojione": {"1": good}}
    splits = Splits(
        [seen], [concept("2", "two")], {("1", "emojione")}, {"1": ["noto", "twemoji"], other.key: ["noto"]}
    )
    kept, left_out = redraw(splits, sources, seed=0)
    assert kept["1", "noto"]
    assert kept.keys() == {("1", "noto"), ("1", "twemoji")}
    assert kept["1", "twemoji"] == {}
    assert left_out >= 1
