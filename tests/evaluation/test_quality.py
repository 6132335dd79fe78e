"""Measures of an embedding space, its geometry and duplicates against their definitions, and on spaces whose answer
is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from diptych.base.errors import UserError
from diptych.evaluation import quality
from diptych.evaluation.quality import (
    difference_hash,
    modality_gap,
    near_embeddings,
    near_hashes,
    neighbours,
    pca,
    same_pixels,
    similarity_matrix,
)


def sphere(n: int, dimensions: int, seed: int = 0, width: int = 24) -> Tensor:
    """Points on a sphere of `dimensions` dimensions, turned into `width` coordinates."""
    generator = torch.Generator().manual_seed(seed)
    points = normalize(torch.randn(n, dimensions + 1, generator=generator), dim=1)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q[: dimensions + 1]
    return points @ turn


def test_alignment_and_uniformity_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "CHUNK", 7)
    left, right = sphere(20, 5), sphere(20, 5, seed=1)
    assert quality.alignment(left, right) == pytest.approx((left - right).square().sum(1).mean().item(), abs=1e-6)
    assert quality.alignment(left, left) == pytest.approx(0, abs=1e-6)
    pairs = [(-2 * (left[i] - left[j]).square().sum()).exp() for i in range(20) for j in range(20) if i != j]
    assert quality.uniformity(left) == pytest.approx(math.log(sum(pairs).item() / len(pairs)), abs=1e-5)
    assert quality.uniformity(left[:1].expand(5, -1)) == pytest.approx(0, abs=1e-5)
    with pytest.raises(UserError, match="at least two pictures"):
        quality.uniformity(left[:1])


@pytest.mark.parametrize("dimensions", [2, 5, 10])
def test_the_intrinsic_dimension_of_a_sphere(dimensions: int) -> None:
    assert quality.intrinsic_dimension(sphere(3000, dimensions)) == pytest.approx(dimensions, rel=0.15)


def test_what_occurs_twice_counts_once() -> None:
    points = sphere(500, 4)
    twice = torch.cat([points, points])
    assert quality.intrinsic_dimension(twice) == pytest.approx(quality.intrinsic_dimension(points), rel=1e-6)
    with pytest.raises(UserError, match="four different pictures; here are 3"):
        quality.intrinsic_dimension(points[:3])


def test_purity_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "CHUNK", 7)
    points, labels = sphere(30, 3), torch.tensor([0] * 12 + [1] * 12 + [2] * 4 + [3, 4])
    shares = []
    for i in range(28):
        order = (points @ points[i]).argsort(descending=True)
        near = [j for j in order.tolist() if j != i][: min(5, int((labels == labels[i]).sum()) - 1)]
        shares.append(sum(int(labels[j] == labels[i]) for j in near) / len(near))
    assert quality.purity(points, labels) == pytest.approx(sum(shares) / len(shares))
    assert quality.purity(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])) == 1
    assert quality.purity(points, torch.arange(30)) is None


def drawn(seed: int) -> Tensor:
    """A smooth picture."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, 6, 6, generator=generator) * 255
    return torch.nn.functional.interpolate(rough, 64, mode="bicubic").clamp(0, 255)[0].to(torch.uint8)


def test_a_picture_that_was_resized_or_made_noisy_is_found_and_another_is_not() -> None:
    trained = [drawn(seed) for seed in range(40)]
    smaller = torch.nn.functional.interpolate(trained[7][None].float(), 48, mode="bilinear")[0].to(torch.uint8)
    noisy = (trained[3].float() + torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 4).clamp(
        0, 255
    )
    tested = [smaller, noisy.to(torch.uint8), drawn(99)]
    found = near_hashes([difference_hash(each) for each in tested], [difference_hash(each) for each in trained])
    assert found == [7, 3, -1]
    assert same_pixels(trained[7], smaller) and not same_pixels(trained[7], trained[8])
    assert near_hashes([0b111], [0b0, 0b110], bits=1) == [1] and near_hashes([0b111], [0b0], bits=2) == [-1]


def test_near_embeddings() -> None:
    trained = torch.eye(4)
    tested = torch.tensor([[0.0, 1.0, 0.05, 0.0], [0.5, 0.5, 0.5, 0.5]])
    assert near_embeddings(tested, trained) == [1, -1]


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
