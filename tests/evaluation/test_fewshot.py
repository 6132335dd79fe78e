"""Few-shot methods against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn.functional import normalize

from diptych.evaluation import fewshot
from diptych.evaluation.fewshot import METHODS, cache_scores, draw_shots, probe_from_zero_shot, ridge_scores


def drawn(seed: int, n: int, classes: int = 5, dimensions: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    centres = normalize(torch.randn(classes, dimensions, generator=torch.Generator().manual_seed(50)), dim=1)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = normalize(centres[labels] + 0.25 * torch.randn(n, dimensions, generator=generator), dim=1)
    classifier = normalize(centres + 0.3 * torch.randn(classes, dimensions, generator=generator), dim=1)
    return images, labels, classifier


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 99))
def test_k_of_each_class_or_all(labels: list[int], k: int, seed: int) -> None:
    given = torch.tensor(labels)
    shots = draw_shots(given, k, seed)
    assert len(set(shots.tolist())) == len(shots)
    for label in set(labels):
        assert int((given[shots] == label).sum()) == min(k, labels.count(label))
    assert torch.equal(shots, draw_shots(given, k, seed))


def test_every_picture_is_drawn_as_often() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3)
    counts = torch.zeros(9)
    for seed in range(600):
        counts[draw_shots(labels, 2, seed)] += 1
    assert counts[:6].sub(200).abs().max() < 50 and counts[6:].sub(400).abs().max() < 50


def test_the_cache_is_tip_adapters_formula() -> None:
    shots, labels, classifier = drawn(0, 10)
    images, _, _ = drawn(1, 7)
    found = cache_scores(shots, labels, classifier, 20.0, images)
    for image, row in zip(images, found, strict=True):
        for c in range(5):
            votes = sum(
                (-fewshot.BETA * (1 - image @ shot)).exp()
                for shot, label in zip(shots, labels, strict=True)
                if label == c
            )
            assert row[c].item() == pytest.approx(
                (20 * image @ classifier[c] + fewshot.ALPHA * votes).item(), abs=1e-4
            )


@pytest.mark.parametrize("n", [10, 100])
def test_ridge_is_scikit_learns(n: int) -> None:
    """In both forms: fewer shots than dimensions, and more."""
    shots, labels, classifier = drawn(2, n)
    images, _, _ = drawn(3, 20)
    theirs = Ridge(alpha=fewshot.RIDGE).fit(shots.double().numpy(), torch.eye(5)[labels].double().numpy())
    ours = ridge_scores(shots, labels, classifier, 20.0, images)
    expected = torch.tensor(theirs.predict(images.double().numpy()) - theirs.predict(shots.double().numpy()).mean(0))
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-4)


def test_the_probe_begins_at_zero_shot(monkeypatch: pytest.MonkeyPatch) -> None:
    shots, labels, classifier = drawn(4, 10)
    images, _, _ = drawn(5, 30)
    monkeypatch.setattr(fewshot, "C", 1e-9)
    found = probe_from_zero_shot(shots, labels, classifier, 20.0, images)
    moved = found - 20 * images @ classifier.T  # the intercept alone, one number a class
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-3, rtol=1e-3)


def test_more_shots_read_more() -> None:
    pool, labels, classifier = drawn(6, 200)
    images, truth, _ = drawn(7, 200)
    for scores in METHODS.values():
        right = []
        for k in (1, 32):
            shots = draw_shots(labels, k, 0)
            said = scores(pool[shots], labels[shots], classifier, 20.0, images).argmax(dim=1)
            right.append((said == truth).double().mean().item())
        assert right[1] >= right[0] and right[1] > 0.6
