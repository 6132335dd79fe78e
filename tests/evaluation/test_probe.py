"""The linear probe against scikit-learn's, its search against the paper's, and that no test picture has a say;
few-shot methods against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn.functional import normalize

from diptych.base.errors import UserError
from diptych.evaluation import probe as probes
from diptych.evaluation.probe import (
    FEW_SHOT,
    cache_scores,
    draw_shots,
    fit_logistic,
    fit_probe,
    knn,
    probe_from_zero_shot,
    ridge_scores,
    search_c,
)


def drawn(
    seed: int, n: int = 300, classes: int = 6, dimensions: int = 12, noise: float = 1.0
) -> tuple[Tensor, Tensor]:
    centres = torch.randn(classes, dimensions, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = centres[labels] + noise * torch.randn(n, dimensions, generator=generator)
    return normalize(features, dim=1), labels


@pytest.mark.parametrize("c", [0.01, 1.0, 316.0])
def test_it_is_scikit_learns(c: float) -> None:
    features, labels = drawn(0)
    tested, truth = drawn(1)
    ours = fit_logistic(features.double(), labels, 6, c)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(features.double().numpy(), labels.numpy())
    assert ours.converged
    chances = ours.scores(tested).softmax(dim=1).numpy()
    assert np.abs(chances - theirs.predict_proba(tested.double().numpy())).max() < 1e-3
    right = (ours.scores(tested).argmax(dim=1) == truth).double().mean().item()
    assert right == pytest.approx(theirs.score(tested.double().numpy(), truth.numpy()), abs=1e-3)
    assert log_loss(truth.numpy(), chances) == pytest.approx(
        log_loss(truth.numpy(), theirs.predict_proba(tested.double().numpy())), abs=1e-4
    )


def test_a_start_does_not_change_where_it_ends_and_few_steps_are_said() -> None:
    features, labels = drawn(2)
    cold = fit_logistic(features.double(), labels, 6, 10.0)
    warm = fit_logistic(features.double(), labels, 6, 10.0, start=fit_logistic(features, labels, 6, 100.0))
    torch.testing.assert_close(cold.weight, warm.weight, atol=1e-4, rtol=1e-3)
    assert not fit_logistic(features.double(), labels, 6, 1e4, most=2).converged


def test_known_logits_are_added_to() -> None:
    features, labels = drawn(3)
    known = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(0))
    alone = fit_logistic(features.double(), labels, 6, 1e-9, known=known)
    assert alone.weight.abs().max() < 1e-4  # all that is left to learn is the intercept


def test_the_search_is_the_papers() -> None:
    """96 steps of an eighth of a decade: seven points, then around the best with steps of 8, 4, 2, 1 eighths."""
    asked: list[float] = []

    def accuracy(c: float) -> float:
        asked.append(c)
        return -abs(math.log10(c) - 2.625)

    tried = search_c(accuracy)
    assert asked[:7] == pytest.approx([1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
    assert len(asked) == len(tried) <= 7 + 8
    assert max(tried, key=lambda c: tried[c]) == pytest.approx(10**2.625)
    assert search_c(lambda c: math.log10(c)).keys() >= {1e6}  # the end of the range is not left


def test_c_is_chosen_on_a_part_of_the_training_pictures_alone() -> None:
    """The one thing the function gets is the training split; another split can't be tuned on."""
    features, labels = drawn(4, noise=1.5)
    probe = fit_probe(features, labels, 6, seed=0)
    assert probe.tried[probe.c] == max(probe.tried.values())
    again = fit_logistic(features.double(), labels, 6, probe.c)
    torch.testing.assert_close(probe.scores(features), again.scores(features), atol=1e-3, rtol=1e-3)
    held = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:60]
    fitted = torch.ones(300, dtype=torch.bool).index_fill(0, held, False)
    part = fit_logistic(features[fitted].double(), labels[fitted], 6, probe.c)
    share = (part.scores(features[held]).argmax(dim=1) == labels[held]).double().mean().item()
    assert probe.tried[probe.c] == pytest.approx(share, abs=1 / 60)


def test_features_that_are_not_finite_are_refused() -> None:
    features, labels = drawn(5)
    features[7, 3] = math.nan
    with pytest.raises(UserError, match="features of a linear probe hold NaN"):
        fit_probe(features, labels, 6, seed=0)


def test_neighbours_vote_as_one_by_one() -> None:
    train, labels = drawn(6, n=50)
    images, _ = drawn(7, n=20)
    votes = knn(train, labels, images, 6, k=7, chunk=3)
    for image, vote in zip(images, votes, strict=True):
        cosines = train @ image
        nearest = cosines.argsort(descending=True)[:7]
        expected = torch.zeros(6)
        for neighbour in nearest:
            expected[labels[neighbour]] += math.exp(cosines[neighbour].item() / 0.07)
        torch.testing.assert_close(vote / vote.sum(), expected / expected.sum(), atol=1e-4, rtol=1e-4)
    assert knn(train, labels, images, 6, k=500).shape == (20, 6)


def shots_and_pictures(seed: int, n: int, classes: int = 5, dimensions: int = 16) -> tuple[Tensor, Tensor, Tensor]:
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
    shots, labels, classifier = shots_and_pictures(0, 10)
    images, _, _ = shots_and_pictures(1, 7)
    found = cache_scores(shots, labels, classifier, 20.0, images)
    for image, row in zip(images, found, strict=True):
        for c in range(5):
            votes = sum(
                (-probes.BETA * (1 - image @ shot)).exp()
                for shot, label in zip(shots, labels, strict=True)
                if label == c
            )
            assert row[c].item() == pytest.approx(
                (20 * image @ classifier[c] + probes.ALPHA * votes).item(), abs=1e-4
            )


@pytest.mark.parametrize("n", [10, 100])
def test_ridge_is_scikit_learns(n: int) -> None:
    """In both forms: fewer shots than dimensions, and more."""
    shots, labels, classifier = shots_and_pictures(2, n)
    images, _, _ = shots_and_pictures(3, 20)
    theirs = Ridge(alpha=probes.RIDGE).fit(shots.double().numpy(), torch.eye(5)[labels].double().numpy())
    ours = ridge_scores(shots, labels, classifier, 20.0, images)
    expected = torch.tensor(theirs.predict(images.double().numpy()) - theirs.predict(shots.double().numpy()).mean(0))
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-4)


def test_the_probe_begins_at_zero_shot(monkeypatch: pytest.MonkeyPatch) -> None:
    shots, labels, classifier = shots_and_pictures(4, 10)
    images, _, _ = shots_and_pictures(5, 30)
    monkeypatch.setattr(probes, "SHOTS_C", 1e-9)
    found = probe_from_zero_shot(shots, labels, classifier, 20.0, images)
    moved = found - 20 * images @ classifier.T  # the intercept alone, one number a class
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-3, rtol=1e-3)


def test_more_shots_read_more() -> None:
    pool, labels, classifier = shots_and_pictures(6, 200)
    images, truth, _ = shots_and_pictures(7, 200)
    for scores in FEW_SHOT.values():
        right = []
        for k in (1, 32):
            shots = draw_shots(labels, k, 0)
            said = scores(pool[shots], labels[shots], classifier, 20.0, images).argmax(dim=1)
            right.append((said == truth).double().mean().item())
        assert right[1] >= right[0] and right[1] > 0.6
