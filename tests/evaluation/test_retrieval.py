"""Recall@k against brute force over the whole similarity matrix."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from diptych.base.errors import UserError
from diptych.evaluation.retrieval import recall


def brute_force(image, text, owner, k):
    scores = (normalize(image, dim=1) @ normalize(text, dim=1).T).tolist()
    n, m = len(image), len(text)
    found_images = found_texts = 0
    for i in range(n):
        best = sorted(range(m), key=lambda j: (-scores[i][j], j))[:k]
        found_images += any(owner[j] == i for j in best)
    for j in range(m):
        best = sorted(range(n), key=lambda i: (-scores[i][j], i))[:k]
        found_texts += int(owner[j]) in best
    return found_images / n, found_texts / m


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 20), st.booleans(), st.integers(0, 2**31))
def test_recall_equals_brute_force(n, extra, chunk, ties, seed):
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(n), torch.randint(0, n, (extra,), generator=generator)])
    owner = owner[torch.randperm(n + extra, generator=generator)]
    image, text = (torch.randn(rows, 3, generator=generator) for rows in (n, n + extra))
    if ties:  # along the axes, where the products are exact
        image, text = (torch.eye(3)[part[:, 0].abs().mul(9).long() % 3] for part in (image, text))
    result = recall(image, text, owner, ks=(1, 3), chunk=chunk)
    for k in (1, 3):
        expected = brute_force(image, text, owner, k)
        assert result["image_to_text"][f"R@{k}"] == pytest.approx(expected[0])
        assert result["text_to_image"][f"R@{k}"] == pytest.approx(expected[1])
    assert result["n"] == n and result["captions"] == n + extra


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**31))
def test_an_image_of_the_same_caption_is_right_too(n, extra, kinds, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(n), torch.randint(0, n, (extra,), generator=generator)])
    captions = torch.randint(0, kinds, (n + extra,), generator=generator)
    image = torch.eye(3)[torch.randint(0, 3, (n,), generator=generator)]
    text = torch.eye(3)[torch.randint(0, 3, (kinds,), generator=generator)][captions]
    result = recall(image, text, owner, ks=(1, 3), chunk=chunk, alike=captions * 7 - 3)
    scores = (image @ text.T).tolist()
    has = [{int(c) for c, o in zip(captions, owner, strict=True) if o == i} for i in range(n)]
    for k in (1, 3):
        ranked = [sorted(range(n), key=lambda i: (-scores[i][j], i))[:k] for j in range(n + extra)]
        found = sum(any(int(captions[j]) in has[i] for i in ranked[j]) for j in range(n + extra))
        assert result["text_to_image"][f"R@{k}"] == pytest.approx(found / (n + extra))
        ranked = [sorted(range(n + extra), key=lambda j: (-scores[i][j], j))[:k] for i in range(n)]
        found = sum(any(int(captions[j]) in has[i] for j in ranked[i]) for i in range(n))
        assert result["image_to_text"][f"R@{k}"] == pytest.approx(found / n)


def test_any_caption_of_an_image_counts():
    image = torch.eye(2)
    text = torch.tensor([[0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    result = recall(image, text, torch.tensor([0, 0, 1]))
    assert result["image_to_text"] == {"R@1": 0.5, "R@5": 1.0, "R@10": 1.0}
    assert result["text_to_image"]["R@1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ([0, 0], "1 images have no text, the first is image 1"),
        ([0, 2], "belongs to image 2"),
        ([0, -1], "belongs to image -1"),
        ([0], "2 texts but 1 image numbers"),
    ],
)
def test_bad_pairing_is_named(owner, message):
    with pytest.raises(UserError, match=message):
        recall(torch.eye(2), torch.eye(2), torch.tensor(owner))


def test_nan_is_named():
    with pytest.raises(UserError, match="text features hold NaN"):
        recall(torch.eye(2), torch.full((2, 2), math.nan), torch.tensor([0, 1]))
