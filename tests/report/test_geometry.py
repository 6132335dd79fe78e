"""Geometry against the definitions, written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, normalize

from diptych.base.errors import UserError
from diptych.report.geometry import modality_gap, neighbours, pca, similarity_matrix

SEEDS = st.integers(0, 2**31)


def random(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_similarity_is_the_cosine():
    left, right = random(4, 3, 0), random(5, 3, 1)
    torch.testing.assert_close(similarity_matrix(left, right), cosine_similarity(left[:, None], right[None], dim=2))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(3, 20), st.integers(2, 6))
def test_pca_is_the_eigenvectors_of_the_covariance(seed, n, d):
    features = random(n, d, seed).double() * torch.arange(1, d + 1)
    points, explained = pca(features, dims=2)
    values = torch.linalg.eigvalsh(torch.cov(features.T)).flip(0).clamp_min(0)
    torch.testing.assert_close(points.double().var(dim=0), values[:2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(explained.double(), values[:2] / values.sum(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(2), rtol=0, atol=1e-4)
    assert (points.gather(0, points.abs().argmax(dim=0, keepdim=True)) >= 0).all()


def test_pca_of_points_without_variance():
    points, explained = pca(torch.ones(4, 3))
    assert not points.any() and not explained.any()


def test_neighbours_are_sorted_and_a_row_is_its_own_first():
    features = random(9, 4, 2)
    scores, rows = neighbours(features[:3], features, k=99)
    assert rows.shape == (3, 9) and rows[:, 0].tolist() == [0, 1, 2]
    torch.testing.assert_close(scores[:, 0], torch.ones(3))
    assert (scores.diff(dim=1) <= 0).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 10))
def test_modality_gap_by_its_definition(seed, n):
    image, text = normalize(random(n, 5, seed), dim=1), normalize(random(n, 5, seed + 1), dim=1)
    found = modality_gap(3 * image, 2 * text)
    cosines, off = image @ text.T, ~torch.eye(n, dtype=torch.bool)
    assert found["gap"] == pytest.approx((image.mean(0) - text.mean(0)).norm().item(), abs=1e-5)
    assert found["pairs"] == pytest.approx(cosines.diag().mean().item(), abs=1e-5)
    assert found["others"] == pytest.approx(cosines[off].mean().item(), abs=1e-4)
    assert found["image_cone"] == pytest.approx((image @ image.T)[off].mean().item(), abs=1e-4)
    assert found["text_cone"] == pytest.approx((text @ text.T)[off].mean().item(), abs=1e-4)


def test_one_pair_has_no_others():
    found = modality_gap(torch.eye(2)[:1], torch.eye(2)[1:])
    assert found["gap"] == pytest.approx(math.sqrt(2)) and found["pairs"] == 0
    assert math.isnan(found["others"]) and math.isnan(found["image_cone"])


def test_nan_is_named():
    with pytest.raises(UserError, match="image features hold NaN"):
        modality_gap(torch.full((2, 2), math.nan), torch.ones(2, 2))
