"""Greedy ensembles against exhaustive search and against the zero-shot classifier."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from diptych.base.errors import UserError
from diptych.evaluation.prompt_search import ensemble, greedy
from diptych.evaluation.zeroshot import classify


def drawn(seed: int, templates: int = 4, classes: int = 5, pictures: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 8, generator=generator)
    labels = torch.randint(0, classes, (pictures,), generator=generator)
    images = centres[labels] + torch.randn(pictures, 8, generator=generator)
    prompts = centres + 1.5 * torch.randn(templates, classes, 8, generator=generator)
    return normalize(images, dim=1), labels, normalize(prompts, dim=2)


def measured(images: Tensor, labels: Tensor, prompts: Tensor, taken: tuple[int, ...]) -> tuple[float, float]:
    classifier = normalize(prompts[list(taken)].mean(dim=0), dim=1)
    loss = cross_entropy(10 * images @ classifier.T, labels).item()
    return classify(images, classifier, labels)["top1"], loss


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_each_step_is_the_best_of_all_that_could_be_taken(seed: int) -> None:
    images, labels, prompts = drawn(seed)
    search = greedy(images, labels, prompts, scale=10, most=3)
    for step in range(3):
        before, taken = tuple(search.chosen[:step]), tuple(search.chosen[: step + 1])
        accuracy, loss = measured(images, labels, prompts, taken)
        assert search.accuracy[step] == accuracy and search.loss[step] == pytest.approx(loss, rel=1e-4)
        best = max(measured(images, labels, prompts, (*before, t))[0] for t in range(len(prompts)))
        assert accuracy == best
    assert search.accuracy[search.best - 1] == max(search.accuracy)
    assert max(search.accuracy[: search.best - 1], default=0) < max(search.accuracy)


def test_the_first_step_is_the_best_single_template_and_more_may_help() -> None:
    images, labels, prompts = drawn(1, templates=6, pictures=200)
    search = greedy(images, labels, prompts, scale=10, most=6)
    singles = [measured(images, labels, prompts, (t,))[0] for t in range(6)]
    assert search.accuracy[0] == max(singles) < max(search.accuracy)
    pairs = [
        measured(images, labels, prompts, pair)[0] for pair in itertools.combinations_with_replacement(range(6), 2)
    ]
    assert search.accuracy[1] <= max(pairs)


def test_an_ensemble_is_the_zero_shot_classifier_of_its_templates() -> None:
    _, _, prompts = drawn(2)
    torch.testing.assert_close(ensemble(prompts), normalize(prompts.mean(dim=0), dim=1))


def test_what_is_not_finite_or_has_no_class_is_said() -> None:
    images, labels, prompts = drawn(3)
    with pytest.raises(UserError, match="image features hold NaN"):
        greedy(images * torch.nan, labels, prompts, 10, 1)
    prompts[2, 1] = torch.nan
    with pytest.raises(UserError, match="text features of template 2 hold NaN"):
        greedy(images, labels, prompts, 10, 1)
    with pytest.raises(UserError, match="labels 0…5 for 5 classes"):
        greedy(images, labels.index_fill(0, torch.tensor([0]), 5).index_fill(0, torch.tensor([1]), 0), prompts, 10, 1)
