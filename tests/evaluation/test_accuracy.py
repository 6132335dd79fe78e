"""Accuracy, calibration, classes and confusions against their definitions, and against torchmetrics where both can
be: without ties, off the edges of bins, to float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize, one_hot
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy
from torchmetrics.retrieval import RetrievalHitRate

from diptych.base.errors import UserError
from diptych.evaluation.accuracy import Accuracy, Calibration, calibration, details
from diptych.evaluation.features import rank_of
from diptych.evaluation.retrieval import recall
from diptych.evaluation.zeroshot import classify


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_calibration_are_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, classes = (normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (300, 12))
    labels = torch.arange(300) % 12  # every class occurs: theirs counts one that is only answered as 0
    scores, found = images @ classes.T, classify(images, classes, labels)
    for key, options in (("top1", {"average": "micro"}), ("mean_per_class", {"average": "macro"})):
        assert found[key] == pytest.approx(MulticlassAccuracy(12, **options)(scores, labels).item(), abs=1e-6)
    assert found["top5"] == pytest.approx(MulticlassAccuracy(12, top_k=5, average="micro")(scores, labels).item())
    sure = (10 * scores).softmax(1).max(1)
    theirs = BinaryCalibrationError(15)(sure.values, sure.indices == labels)
    assert details(images, classes, labels, 10.0)["ece"] == pytest.approx(theirs.item(), abs=1e-6)


def test_recall_is_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(n, 6, generator=generator) for n in (20, 60))
    owner = torch.arange(60) % 20
    found = recall(image, text, owner)
    scores = normalize(text, dim=1) @ normalize(image, dim=1).T
    asked = torch.arange(60)[:, None].expand(60, 20)
    for k in (1, 5, 10):
        theirs = RetrievalHitRate(top_k=k)(scores.flatten(), one_hot(owner, 20).flatten(), asked.flatten())
        assert found["text_to_image"][f"R@{k}"] == pytest.approx(theirs.item(), abs=1e-6)
        theirs = RetrievalHitRate(top_k=k)(
            scores.T.flatten(), one_hot(owner, 20).T.flatten(), torch.arange(20)[:, None].expand(20, 60).flatten()
        )
        assert found["image_to_text"][f"R@{k}"] == pytest.approx(theirs.item(), abs=1e-6)


def test_counts_add_up_over_batches_and_an_empty_one() -> None:
    generator = torch.Generator().manual_seed(1)
    scores, labels = torch.randn(50, 7, generator=generator), torch.randint(0, 7, (50,), generator=generator)
    whole, parts = Accuracy(7), Accuracy(7)
    whole.update(rank_of(scores, labels), labels)
    for part in (slice(0, 20), slice(20, 20), slice(20, 50)):
        parts.update(rank_of(scores[part], labels[part]), labels[part])
    assert parts.compute() == whole.compute() and whole.compute()["n"] == 50
    sure, right = torch.rand(50, generator=generator), labels > 3
    whole, parts = Calibration(), Calibration()
    whole.update(sure, right)
    for part in (slice(0, 30), slice(30, 30), slice(30, 50)):
        parts.update(sure[part], right[part])
    assert parts.compute()["ece"] == pytest.approx(whole.compute()["ece"], abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=80))
def test_ece_is_the_mean_distance_of_the_bins(answers: list[tuple[int, bool]]) -> None:
    """Confidences in the middle of hundredths, which are on no edge of ten bins."""
    found = calibration(
        torch.tensor([(c + 0.5) / 100 for c, _ in answers]), torch.tensor([r for _, r in answers]), 10
    )
    expected = 0.0
    for tenth in range(10):
        inside = [((c + 0.5) / 100, r) for c, r in answers if c // 10 == tenth]
        assert found["bins"][tenth]["n"] == len(inside)
        if inside:
            mean, accuracy = (sum(each) / len(inside) for each in zip(*inside, strict=True))
            expected += len(inside) / len(answers) * abs(mean - accuracy)
    assert found["ece"] == pytest.approx(expected, abs=1e-6)


def test_a_model_that_is_always_sure_and_half_right() -> None:
    assert calibration(torch.ones(10), torch.arange(10) % 2 == 0)["ece"] == pytest.approx(0.5)
    assert calibration(torch.full((10,), 0.5), torch.arange(10) % 2 == 0)["ece"] == pytest.approx(0)


def test_classes_and_confusions_are_counted() -> None:
    classifier = torch.eye(4)
    said = [0, 0, 0, 1, 1, 1, 1, 3]
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 2, 3])
    features = normalize(torch.eye(4)[said] + 0.1, dim=1)
    found = details(features, classifier, labels, scale=10.0)
    assert found["per_class"] == [[2, 4], [1, 2], [0, 1], [1, 1]]
    assert found["confusions"] == [[0, 1, 2], [1, 0, 1], [2, 1, 1]]
    parts = details(features, classifier, labels, scale=10.0, chunk=3)
    assert parts == found


def test_of_equal_counts_the_surest_error_comes_first() -> None:
    features = normalize(torch.tensor([[1.0, 0.9, 0.0], [0.1, 0.0, 1.0]]), dim=1)
    found = details(features, torch.eye(3), torch.tensor([1, 0]), scale=10.0)
    assert found["confusions"] == [[0, 2, 1], [1, 0, 1]]


def test_labels_of_another_set_are_refused() -> None:
    with pytest.raises(UserError, match="Label 4 is outside the 3 classes"):
        details(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 4]), 1.0)
