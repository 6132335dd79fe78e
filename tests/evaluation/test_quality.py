"""Measures of an embedding space against their definitions, and on spaces whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.base.errors import UserError
from diptych.evaluation import quality
from diptych.evaluation.duplicates import difference_hash, near_embeddings, near_hashes, same_pixels


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
