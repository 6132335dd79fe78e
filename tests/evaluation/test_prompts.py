"""Greedy ensembles against exhaustive search and the zero-shot classifier; learned context begins as the words it
stands for, learns, and leaves the model as it was."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import diptych
from diptych.base.errors import UserError
from diptych.evaluation.prompts import context_classifier, ensemble, greedy, learn_context
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.towers.clip import CLIP
from diptych.towers.text import CBOW


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
    with pytest.raises(UserError, match="Label 5 is outside the 5 classes"):
        greedy(images, labels.index_fill(0, torch.tensor([0]), 5).index_fill(0, torch.tensor([1]), 0), prompts, 10, 1)


NAMES = ["cat", "a red bus", "tree", "house of cards"]


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return diptych.create_model("vit_tiny").eval()


@pytest.fixture(scope="module")
def tokenizer() -> diptych.Tokenizer:
    return diptych.Tokenizer()


def pictures(model: CLIP) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(64) % len(NAMES)
    centres = torch.randn(len(NAMES), model.text.embed_dim, generator=generator)
    images = centres[labels] + 0.3 * torch.randn(64, model.text.embed_dim, generator=generator)
    return normalize(images, dim=1), labels


def test_without_a_step_it_is_the_template_it_begins_as(model: CLIP, tokenizer: diptych.Tokenizer) -> None:
    learned = learn_context(model, tokenizer, NAMES, *pictures(model), scale=20, steps=0)
    plain = zero_shot_classifier(model, tokenizer, NAMES, ["a photo of a {}."])
    torch.testing.assert_close(context_classifier(model, tokenizer, NAMES, learned), plain)
    assert learned.context.shape == (4, model.text.token_embedding.weight.shape[1])


@pytest.mark.parametrize("bag_of_words", [False, True])
def test_it_learns_and_the_model_stays_as_it_was(tokenizer: diptych.Tokenizer, bag_of_words: bool) -> None:
    torch.manual_seed(0)
    model = diptych.create_model("vit_tiny").eval()
    if bag_of_words:
        model.text = CBOW(model.text.embed_dim, width=32)
    before = copy.deepcopy(model.state_dict())
    model.text.text_projection.requires_grad_(False)
    images, labels = pictures(model)
    learned = learn_context(model, tokenizer, NAMES, images, labels, scale=20, steps=30, lr=0.05)
    again = learn_context(model, tokenizer, NAMES, images, labels, scale=20, steps=30, lr=0.05)
    assert torch.equal(learned.context, again.context)
    assert learned.losses[-1] < learned.losses[0] - 0.2
    plain = zero_shot_classifier(model, tokenizer, NAMES, ["a photo of a {}."])
    classifier = context_classifier(model, tokenizer, NAMES, learned)
    assert classify(images, classifier, labels)["top1"] >= classify(images, plain, labels)["top1"]
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert not trained.pop("text.text_projection") and all(trained.values())
    assert not model.text.token_embedding._forward_hooks
    assert all(weight.grad is None for weight in model.parameters())


def test_a_loss_that_is_not_finite_is_said(model: CLIP, tokenizer: diptych.Tokenizer) -> None:
    with pytest.raises(UserError, match=r"is nan at step 0: lower task\.context\.lr"):
        learn_context(model, tokenizer, NAMES, *pictures(model), scale=float("nan"), steps=1)
