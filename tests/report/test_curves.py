"""Curves: thinning keeps what a reader would see, and a chart says when nothing was logged."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.report.curves import DASHES, SERIES, charts, thin
from diptych.report.record import Record


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 50))
def test_thin_keeps_extremes_and_order(values, most):
    steps = [10 * i for i in range(len(values))]
    where, mean, low, high = thin(steps, values, most)
    assert len(where) <= most and where == sorted(where)
    assert min(low) == min(values) and max(high) == max(values)
    assert all(a - 1e-6 <= m <= b + 1e-6 for a, m, b in zip(low, mean, high, strict=True))


def test_thin_leaves_few_points_alone_and_gaps_as_gaps():
    steps, mean, _, _ = thin([1, 2, 3], [1.0, math.nan, 3.0])
    assert steps == [1, 2, 3] and mean[0] == 1.0 and math.isnan(mean[1]) and mean[2] == 3.0
    assert thin([1, 2], [math.nan, 4.0], most=1) == ([1.5], [4.0], [4.0], [4.0])


def test_a_long_curve_is_a_mean_in_a_band_and_stays_small():
    lines = [{"step": step, "train/loss": 2 + math.sin(step)} for step in range(50_000)]
    svg = charts(Record("x", "", lines=lines))[0].svg
    assert "fill-opacity: 0.15" in svg and len(svg) < 60_000


@pytest.mark.parametrize(("least", "scale"), [(0.0, "linear"), (0.1, "logarithmic")])
def test_the_loss_names_the_scale_it_is_drawn_on(least, scale):
    lines = [{"step": 1, "train/loss": 2.5}, {"step": 2, "train/loss": least}]
    svg = charts(Record("x", "", lines=lines))[0].svg
    assert {"linear", "logarithmic"} & set(re.findall(r"<text[^>]*>([^<]*)<", svg)) == {scale}


def test_what_was_not_logged_is_named():
    lines = [{"step": 1, "train/loss": math.nan}, {"step": 2, "train/lr": 0.5}]
    drawn = {chart.title: chart for chart in charts(Record("x", "", lines=lines))}
    assert drawn["Loss"].absent == "train/loss" and not drawn["Loss"].svg
    assert drawn["Zero-shot top-1, %"].absent == "val/zeroshot/…"
    assert drawn["Learning rate"].legend[0].last == "0.5" and "<use" in drawn["Learning rate"].svg


def test_sets_of_validation_have_their_own_colour_dash_and_last_value():
    lines = [{"step": step, "val/zeroshot/a/b/top1": step / 10, "val/zeroshot/c/top1": 0.5} for step in (1, 2)]
    chart = charts(Record("x", "", lines=lines))[1]
    assert [(key.label, key.last) for key in chart.legend] == [("a/b", "20.0 %"), ("c", "50.0 %")]
    assert len({(key.colour, key.dash) for key in chart.legend}) == 2
    for key in chart.legend:
        assert f"stroke: {key.colour}" in chart.svg


def test_thirty_series_are_told_apart():
    assert math.gcd(len(SERIES), len(DASHES)) == 1


@pytest.mark.parametrize("values", [[0.0, 0.0], [-2.0, -1.0], [1e-12, 3e-12], [3.0]])
def test_a_drawing_holds_only_colours_of_the_page(values):
    svg = charts(Record("x", "", lines=[{"step": i, "train/loss": v} for i, v in enumerate(values)]))[0].svg
    assert set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg)) <= {
        "none", "var(--muted)", "var(--rule)", "var(--series-1)",
    }  # fmt: skip
    assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r"#[mp][0-9a-f]{10}", "", svg))
