"""Towers of fixed phrases: class names one-hot, n-grams by what a text holds."""

from __future__ import annotations

import pytest
import torch

from diptych.base.errors import UserError
from diptych.data.ngrams import mine, ngrams
from diptych.data.text.tokenizer import Tokenizer
from diptych.towers.indicator import LabelTower, NGramTower

NAMES = ["cow", "cow face", "O'clock", "red  apple"]
TOKENIZER = Tokenizer()


def test_class_names_are_rows_of_the_identity() -> None:
    tower = LabelTower(4, NAMES, TOKENIZER)
    assert torch.equal(tower(TOKENIZER(NAMES)), torch.eye(4))
    assert torch.equal(tower(TOKENIZER(["Red apple", "COW FACE"])), torch.eye(4)[[3, 1]])
    assert not list(tower.parameters()) and not tower.state_dict()
    for other in ("a cow", "cow.", "face"):
        with pytest.raises(UserError, match="is not one of the 4 class names"):
            tower(TOKENIZER([other]))


def test_they_say_which_texts_they_know() -> None:
    labels, ngrams_ = LabelTower(4, NAMES, TOKENIZER), NGramTower(2, ["cow", "red apple"], TOKENIZER)
    texts = TOKENIZER(["cow", "a cow", "apple", "Red Apple"])
    assert labels.knows(texts).tolist() == [True, False, False, True]
    for tower in (ngrams_.train(), ngrams_.eval()):
        assert tower.knows(texts).tolist() == [True, True, False, True]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="embed_dim=5, but there are 4 phrases"):
        LabelTower(5, NAMES, TOKENIZER)
    with pytest.raises(UserError, match=r"model\.text\.phrases has .8ball. twice"):
        LabelTower(2, ["8ball", "8 ball"], TOKENIZER)


def test_ngrams_all_in_training_and_the_longest_in_evaluation() -> None:
    phrases = ["cow", "face", "cow face", "a", "red"]
    tower = NGramTower(5, phrases, TOKENIZER)
    text = TOKENIZER(["a cow face, red cow", "blue"])
    assert tower.train()(text).tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
    assert tower.eval()(text).tolist() == [[1, 0, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_in_training_it_finds_what_was_mined_from_the_text() -> None:
    captions = ["a small drawing of a cow face", "the cow sees a red apple, red as fire", "an apple a day"]
    phrases = mine([[caption] for caption in captions], least=1)
    tower = NGramTower(len(phrases), phrases, TOKENIZER).train()
    for caption, row in zip(captions, tower(TOKENIZER(captions)), strict=True):
        found = {phrase for phrase, here in zip(phrases, row.tolist(), strict=True) if here}
        assert found == ngrams(caption)


def test_mining_counts_samples_and_orders_by_frequency() -> None:
    samples = [["red apple", "red apple", "red apple"], ["red cow"], ["a red cow. apple"]]
    assert mine(samples, least=2) == ["red", "apple", "cow", "red cow"]
    assert "cow apple" not in mine(samples, least=1) and "a red cow" in mine(samples, least=1)
    alike = mine([["8ball"], ["8 ball"], ["8 ball"]], least=1)
    assert "8 ball" in alike and "8ball" not in alike  # the tokenizer reads both as the same
