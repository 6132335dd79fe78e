"""Bootstrap against resampling one by one, effective robustness against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.base.errors import UserError
from diptych.evaluation.robustness import effective_robustness, effective_robustness_interval, interval, logit


@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_is_that_of_resampling_picture_by_picture(paired: bool) -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(300) < 0.4
    values = hits.astype(float) - (rng.random(300) < 0.3) if paired else hits.astype(float)
    drawn = rng.integers(0, 300, (20_000, 300))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    found = interval(torch.tensor(values), resamples=20_000)
    assert found == pytest.approx((low, high), abs=0.004)
    assert found == interval(torch.tensor(values), resamples=20_000)
    other = interval(torch.tensor(values), seed=1, resamples=20_000)
    assert found == pytest.approx(other, abs=0.004)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_it_holds_the_mean_and_is_a_point_where_all_are_alike(hits: list[bool]) -> None:
    low, high = interval(torch.tensor(hits).float(), resamples=2000)
    mean = sum(hits) / len(hits)
    assert low - 1e-12 <= mean <= high + 1e-12
    assert (low == high) == (mean in (0, 1)) or len(hits) < 40
    if mean in (0, 1):
        assert low == high == mean


def test_pairs_are_kept_together() -> None:
    """Two models that err on the same pictures differ for certain, whatever is drawn."""
    one = torch.arange(200) % 2 == 0
    assert interval(one.float() - one.float()) == (0, 0)
    with pytest.raises(UserError, match="at least one picture"):
        interval(torch.zeros(0))


def test_effective_robustness() -> None:
    assert effective_robustness((0.6, 0.4), (0.6, 0.4), 1000) == pytest.approx(0)
    assert effective_robustness((0.6, 0.7), (0.6, 0.4), 1000) == pytest.approx(0.3)
    lost = logit(0.6, 1000) - logit(0.4, 1000)
    expected = 1 / (1 + math.exp(-(logit(0.9, 1000) - lost)))
    assert expected == pytest.approx(0.8)  # odds 9 · (2/3) / (3/2) = 4
    assert effective_robustness((0.9, 0.5), (0.6, 0.4), 1000) == pytest.approx(0.5 - expected)
    assert math.isfinite(logit(0, 10)) and logit(1, 10) == pytest.approx(-logit(0, 10))


def test_the_interval_of_effective_robustness_resamples_the_usual_set_too() -> None:
    """Against drawing pictures one by one, of all sets, by hand."""
    rng = np.random.default_rng(0)
    usual = rng.random((200, 2)) < (0.75, 0.6)
    shifted = [rng.random((n, 2)) < (0.5, 0.35) for n in (150, 80)]

    def mean(known: np.ndarray, sets: list[np.ndarray]) -> float:
        found = 0.0
        for hits, n in zip(sets, (150, 80), strict=True):
            ours, theirs = zip(known.mean(axis=0), hits.mean(axis=0), strict=True)
            found += effective_robustness(ours, theirs, n).item() / 2
        return found

    def again(hits: np.ndarray) -> np.ndarray:
        return hits[rng.integers(0, len(hits), len(hits))]

    drawn = [mean(again(usual), [again(hits) for hits in shifted]) for _ in range(4000)]
    value, ends = effective_robustness_interval(torch.tensor(usual), [torch.tensor(x) for x in shifted])
    assert value == pytest.approx(mean(usual, shifted))
    assert ends == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.01)
    alone = np.quantile([mean(usual, [again(hits) for hits in shifted]) for _ in range(4000)], [0.025, 0.975])
    assert ends[1] - ends[0] > 1.2 * (alone[1] - alone[0])
    assert effective_robustness_interval(torch.tensor(usual), [torch.tensor(usual)])[0] == pytest.approx(0)
