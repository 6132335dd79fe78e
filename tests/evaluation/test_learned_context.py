"""CoOp: begins as the words it stands for, learns, and leaves the model as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import normalize

import diptych
from diptych.base.errors import UserError
from diptych.evaluation.learned_context import context_classifier, learn_context
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.towers.clip import CLIP
from diptych.towers.text import CBOW

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
    with pytest.raises(UserError, match="is nan at step 0: lower its lr"):
        learn_context(model, tokenizer, NAMES, *pictures(model), scale=float("nan"), steps=1)
