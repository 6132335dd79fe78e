"""The linear probe against scikit-learn's, its search against the paper's, and that no test picture has a say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn.functional import normalize

from diptych.base.errors import UserError
from diptych.evaluation.neighbours import knn
from diptych.evaluation.probe import fit_logistic, fit_probe, search_c


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
