"""Numbers of the report, and of its sections on sets and prompts, against their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.report import formats, view
from diptych.report.record import Record
from diptych.report.view import sets


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_solves_its_equation(k, n):
    """Its ends are the p at which the observed share lies 1.96 standard errors away (Wilson 1927)."""
    share = min(k, n) / n
    low, high = view.wilson(share, n)
    assert -1e-12 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1 + 1e-12
    for end in (low, high):
        assert (share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / n, abs=1e-9)


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (math.nan, 9), (1.5, 9), (0.5, math.nan)])
def test_wilson_of_what_is_no_share(share, n):
    assert all(math.isnan(end) for end in view.wilson(share, n))


def test_chance_is_what_was_recorded_or_one_in_the_classes():
    assert view.chance({"chance": 0.25, "classes": 9}) == 0.25
    assert view.chance({"classes": 4}) == 0.25
    assert math.isnan(view.chance({})) and math.isnan(view.chance({"classes": 0}))


def test_the_headline_is_over_the_unseen_styles_alone():
    rows = {
        "a": {"role": "shift", "classes": 2},
        "b": {"role": "shift", "classes": 4},
        "c": {"role": "redrawn", "classes": 100},
    }
    top = view.headline(Record("x", "", metrics={"zeroshot": {"top1": 0.75, "sets": rows}}))
    assert top["what"].endswith("2 unseen styles") and top["chance"] == 0.375 and top["times"] == 2


def test_a_remark_on_all_sets_of_a_role_is_not_repeated():
    rows = {name: {"role": "shift", "note": "never seen"} for name in "ab"}
    rows["c"] = {"role": "redrawn", "note": "from a"}
    shown = view.groups(Record("x", "", metrics={"zeroshot": {"sets": rows}}))
    assert [row["note"] for group in shown for row in group["rows"]] == ["", "", "from a"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (292, "4 min 52 s"), (25380, "7 h 03 min"), (math.nan, "–")],
)
def test_durations(value, text):
    assert formats.duration(value) == text


def test_numbers_and_what_is_none():
    assert formats.percent(0.58714) == "58.7" and formats.percent(0.001126, 2) == "0.11"
    assert formats.count(1234567.0) == "1,234,567" and formats.decimal(0.316) == "0.32"
    for nothing in (None, "1", True, math.inf, [1]):
        assert {formats.percent(nothing), formats.count(nothing), formats.decimal(nothing)} == {"–"}


@pytest.mark.parametrize("data", [None, 3, "", "a", "PHN2Zz4=", 'iVBORw0KGgo="><script>', "é"])
def test_only_webp_and_png_become_a_picture(data):
    assert formats.picture(data) == ""


def test_png_is_a_picture():
    assert formats.picture("iVBORw0KGgo=") == "data:image/png;base64,iVBORw0KGgo="


PROMPTS = {"from": "the run's", "count": 5, "sha256": "ab" * 32, "first": "<b>{}</b>"}


def test_sets_that_share_prompts_are_one_row() -> None:
    facts = {"prompts": PROMPTS, "unused": {"hidden": {"n": 7, "names": ["a", "b"]}}, "remarks": ["odd"]}
    told = {"zeroshot": {"one": facts, "two": {"prompts": PROMPTS}}, "probe": {"one": facts}}
    found = sets(Record("run", "", metrics={"sets": told}))
    assert found["prompts"] == [
        {"sets": ["one", "two"], "from": "the run's", "count": "5", "sha256": "ab" * 6, "first": "<b>{}</b>"}
    ]
    assert found["remarks"] == [
        {"sets": ["one"], "remark": "not used, hidden (7): a, b"},
        {"sets": ["one"], "remark": "odd"},
    ]


@pytest.mark.parametrize(
    "told",
    [None, [], {"zeroshot": 3}, {"zeroshot": {"a": []}}, {"t": {"a": {"prompts": 1, "unused": [], "remarks": 2}}}],
)
def test_what_is_no_record_of_sets_shows_nothing(told: Any) -> None:
    assert sets(Record("run", "", metrics={"sets": told})) == {}
