"""Zero-shot: the classifier against its definition, the accuracy against a sort."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from diptych.errors import UserError
from diptych.evaluation.zeroshot import classify, top_k, zero_shot_classifier


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
        (torch.eye(2)[:0], [], "non-empty"),
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
