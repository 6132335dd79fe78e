"""Zero-shot: prompts, the classifier against its definition, the accuracy against a sort; and saliency, on functions
of which the pixels that matter are known and on both kinds of tower."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

import diptych
from diptych.base.errors import UserError
from diptych.evaluation.accuracy import details
from diptych.evaluation.zeroshot import answers, classify, fill, hits, prompts, saliency, top_k, zero_shot_classifier


class Letters:
    """A text tower small enough to check by hand: its feature is how often each letter occurs."""

    def encode_text(self, tokens):
        return tokens.half()


def letters(texts):
    return torch.tensor([[text.count(letter) for letter in "abcdefgh "] for text in texts])


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_classifier_is_the_mean_of_unit_prompts(batch_size):
    names, templates = ["a cab", "bead", "gaffe"], ["{}", "a {} face", "bad {c}"]
    classifier = zero_shot_classifier(Letters(), letters, names, templates, batch_size=batch_size)
    for row, name in zip(classifier, names, strict=True):
        texts = [name, f"a {name} face", f"bad {name}"]
        expected = normalize(normalize(letters(texts).float(), dim=1).mean(0), dim=0)
        torch.testing.assert_close(row, expected)
    assert classifier.dtype == torch.float32 and not classifier.requires_grad


@pytest.mark.parametrize("module", [torch.nn.Embedding(100, 4), torch.nn.Identity()])
def test_classifier_of_a_module_with_or_without_parameters(module):
    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def encode_text(self, tokens):
            found = self.inner(tokens)
            return found.float() if found.ndim == 2 else found.sum(dim=1)

    assert zero_shot_classifier(Tower(), letters, ["a", "b c"], ["{}", "a {}"]).isfinite().all()


def test_classifier_needs_names_and_finite_features():
    with pytest.raises(UserError, match="at least one class name"):
        zero_shot_classifier(Letters(), letters, [], ["{}"])
    with pytest.raises(UserError, match=r"names='cat' is one text: give a list of names"):
        zero_shot_classifier(Letters(), letters, "cat", ["a {}"])
    with pytest.raises(UserError, match=r"templates='a \{\}' is one text: give a list of templates"):
        zero_shot_classifier(Letters(), letters, ["cat"], "a {}")
    with pytest.raises(UserError, match="text features hold NaN"):
        zero_shot_classifier(Letters(), lambda texts: letters(texts) * math.nan, ["abc"], ["{}"])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 50), st.integers(0, 2**31))
def test_classify_equals_a_stable_sort(n, classes, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    # Few distinct directions, so that ties are common, and products that no order of summing rounds: a tie of 1 × 12
    # products is one of 40 × 12 then, too.
    images = torch.randint(0, 2, (n, 4), generator=generator) * 2 - 1
    classifier = torch.randint(0, 2, (classes, 4), generator=generator) * 2 - 1
    labels = torch.randint(0, classes, (n,), generator=generator)
    result = classify(images, classifier, labels, chunk=chunk)

    scores = normalize(images.float(), dim=1) @ normalize(classifier.float(), dim=1).T
    order = scores.sort(dim=1, descending=True, stable=True).indices
    hit = order == labels[:, None]
    assert result["top1"] == pytest.approx(hit[:, 0].double().mean().item())
    assert result["top5"] == pytest.approx(hit[:, :5].any(1).double().mean().item())
    shares = [hit[labels == label, 0].double().mean().item() for label in labels.unique()]
    assert result["mean_per_class"] == pytest.approx(sum(shares) / len(shares))
    assert result["n"] == n


def test_classify_with_fewer_than_five_classes():
    result = classify(torch.eye(3), torch.eye(3), torch.tensor([0, 0, 2]))
    assert result["top1"] == pytest.approx(2 / 3) and result["top5"] == 1.0
    assert result["mean_per_class"] == 0.75  # half of class 0, all of class 2; class 1 does not occur


def test_a_collapsed_model_is_at_chance_not_perfect():
    labels = torch.arange(10)
    assert classify(torch.ones(10, 4), torch.ones(10, 4), labels)["top1"] == 0.1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.tensor([[1.0, 0.0], [0.0, math.nan]]), [0, 1], "image features hold NaN.*row 1"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), [0, 1], "all zero in row 1"),
        (torch.eye(2), [0], "2 images but 1 labels"),
        (torch.eye(2), [0, 2], "Label 2 is outside the 2 classes"),
        (torch.eye(2)[:0], [], "No picture of a set could be read"),
    ],
)
def test_bad_input_is_named(images, labels, message):
    with pytest.raises(UserError, match=message):
        classify(images, torch.eye(2), torch.tensor(labels, dtype=torch.int64))


def test_classify_is_float32_under_autocast():
    classes = normalize(torch.tensor([[1.0, 0.0], [1.0, 1e-3]]), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert classify(classes, classes, torch.tensor([0, 1]))["top1"] == 1.0


def test_top_k_is_a_softmax_over_all_classes():
    images, classes = torch.tensor([[3.0, 4.0]]), torch.eye(2)
    probabilities, indices = top_k(images, classes, scale=10.0, k=5)
    assert indices.tolist() == [[1, 0]]
    torch.testing.assert_close(probabilities, torch.tensor([[8.0, 6.0]]).softmax(1))
    assert top_k(torch.eye(4), torch.eye(4), 1.0, k=2)[1].shape == (4, 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 7), st.sampled_from([0.0, 1e-6, 1.0, 100.0, 1e30]), st.integers(0, 2**31))
def test_one_rule_for_what_a_model_says(n, classes, scale, seed):
    """Cosines that tie, and probabilities that tie where cosines don't: 1 class, 2 classes, fewer than five."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-2, 3, (n, 3), generator=generator).float()
    images[~images.any(dim=1)] = 1.0
    images += 1e-6 * torch.randint(0, 2, (n, 3), generator=generator)
    classifier = torch.randint(0, 2, (classes, 3), generator=generator) * 2.0 - 1
    labels = torch.randint(0, classes, (n,), generator=generator)
    found = details(images, classifier, labels, scale)
    said = torch.tensor(found["said"])
    assert said.tolist() == answers(images, classifier).tolist()
    result = classify(images, classifier, labels)
    assert result["top1"] == pytest.approx((said == labels).double().mean().item())
    assert result["top1"] == pytest.approx(hits(images, classifier, labels).double().mean().item())
    assert sum(right for right, _ in found["per_class"]) == int((said == labels).sum())
    shares, best = top_k(images, classifier, scale, k=5)
    assert best.shape == (n, min(5, classes)) and best[:, 0].tolist() == said.tolist()
    assert all((said[labels == true] == taken).sum() == times for true, taken, times in found["confusions"])
    assert 0 <= found["ece"] <= 1 and (shares.sum(dim=1) <= 1.00001).all()


def test_cosines_decide_where_probabilities_tie():
    """A scale of 1e-9 makes all probabilities one float: the page once showed another answer than it counted."""
    images, classes = torch.tensor([[0.6, 0.8]]), torch.eye(2)
    assert answers(images, classes).tolist() == [1]
    assert top_k(images, classes, 1e-9, 2)[1].tolist() == [[1, 0]]
    found = details(images, classes, torch.tensor([1]), 1e-9)
    assert found["per_class"] == [[0, 0], [1, 1]] and found["confusions"] == []


@pytest.mark.parametrize("scale", [math.inf, math.nan, -math.inf])
def test_a_scale_that_is_not_finite_is_refused(scale):
    for measured in (lambda: top_k(torch.eye(2), torch.eye(2), scale, 2),
                     lambda: details(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), scale)):  # fmt: skip
        with pytest.raises(UserError, match=f"logit scale is {scale}.*earlier checkpoint"):
            measured()


def test_features_with_nan_are_counted_by_all():
    images = torch.tensor([[1.0, math.nan], [0.0, 1.0], [math.inf, 1.0]])
    labels = torch.tensor([0, 1, 0])
    for measured in (lambda: classify(images, torch.eye(2), labels), lambda: hits(images, torch.eye(2), labels),
                     lambda: top_k(images, torch.eye(2), 1.0, 1),
                     lambda: details(images, torch.eye(2), labels, 1.0)):  # fmt: skip
        with pytest.raises(UserError, match="NaN or infinity in 2 of 3 rows"):
            measured()


@given(st.text(), st.text(alphabet="ab %"), st.text(alphabet="ab %"))
def test_fill_puts_any_name_at_the_placeholder(name, before, after):
    assert fill(before + "{}" + after, name) == before + name + after
    assert fill(before + "{c}" + after, name) == before + name + after


def test_fill_at_every_placeholder():
    assert fill("{} or {c}", "{}") == "{} or {}"


def test_prompts_keep_a_class_together():
    assert prompts(["cat", "dog"], ["a {}", "{}!"]) == ["a cat", "cat!", "a dog", "dog!"]


def test_only_pixels_that_the_answer_hangs_on_are_marked() -> None:
    def encode(pixels: Tensor) -> Tensor:
        corner = pixels[:, :, :4, :4].sum(dim=(1, 2, 3))
        return torch.stack([corner, torch.ones_like(corner)], dim=1)

    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    found = saliency(encode, pixels, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert found.shape == (2, 16, 16) and found.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert (found[:, :4, :4] > 0.3).all() and not found[:, 5:, :].any() and not found[:, :, 5:].any()
    assert torch.equal(found, saliency(encode, pixels, torch.tensor([[1.0, 0.0], [1.0, 0.0]])))


def test_a_constant_model_looks_at_nothing() -> None:
    found = saliency(lambda pixels: 0 * pixels.mean(dim=(2, 3)) + 1, torch.rand(1, 3, 8, 8), torch.ones(1, 3))
    assert not found.any()


@pytest.mark.parametrize("name", ["rn_tiny", "vit_tiny"])
def test_both_kinds_of_tower_and_no_gradient_is_left(name: str) -> None:
    torch.manual_seed(0)
    model = diptych.create_model(name).eval()
    size = model.image_size
    with torch.no_grad():
        found = saliency(model.encode_image, torch.randn(2, 3, size, size), torch.randn(2, model.image.embed_dim))
    assert found.shape == (2, size, size) and found.isfinite().all() and 0 <= found.min() <= found.max() <= 1
    assert all(weight.grad is None for weight in model.parameters())
