"""Calibration against its definition bin by bin; classes and confusions against counting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from diptych.base.errors import UserError
from diptych.evaluation.calibration import calibration, details


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=80))
def test_ece_is_the_mean_distance_of_the_bins(answers: list[tuple[int, bool]]) -> None:
    """Confidences in the middle of hundredths, which are on no edge of ten bins."""
    found = calibration(
        torch.tensor([(c + 0.5) / 100 for c, _ in answers]), torch.tensor([r for _, r in answers]), 10
    )
    expected = 0.0
    for tenth in range(10):
        inside = [((c + 0.5) / 100, r) for c, r in answers if c // 10 == tenth]
        assert found["bins"][tenth]["n"] == len(inside)
        if inside:
            mean, accuracy = (sum(each) / len(inside) for each in zip(*inside, strict=True))
            expected += len(inside) / len(answers) * abs(mean - accuracy)
    assert found["ece"] == pytest.approx(expected, abs=1e-6)


def test_a_model_that_is_always_sure_and_half_right() -> None:
    assert calibration(torch.ones(10), torch.arange(10) % 2 == 0)["ece"] == pytest.approx(0.5)
    assert calibration(torch.full((10,), 0.5), torch.arange(10) % 2 == 0)["ece"] == pytest.approx(0)


def test_classes_and_confusions_are_counted() -> None:
    classifier = torch.eye(4)
    said = [0, 0, 0, 1, 1, 1, 1, 3]
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 2, 3])
    features = normalize(torch.eye(4)[said] + 0.1, dim=1)
    found = details(features, classifier, labels, scale=10.0)
    assert found["per_class"] == [[2, 4], [1, 2], [0, 1], [1, 1]]
    assert found["confusions"] == [[0, 1, 2], [1, 0, 1], [2, 1, 1]]
    parts = details(features, classifier, labels, scale=10.0, chunk=3)
    assert parts == found


def test_of_equal_counts_the_surest_error_comes_first() -> None:
    features = normalize(torch.tensor([[1.0, 0.9, 0.0], [0.1, 0.0, 1.0]]), dim=1)
    found = details(features, torch.eye(3), torch.tensor([1, 0]), scale=10.0)
    assert found["confusions"] == [[0, 2, 1], [1, 0, 1]]


def test_labels_of_another_set_are_refused() -> None:
    with pytest.raises(UserError, match="3 labels up to 4 for 3 pictures and 3 classes"):
        details(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 4]), 1.0)
