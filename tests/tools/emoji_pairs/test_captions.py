from __future__ import annotations

import pytest
from emoji_samples import concept
from hypothesis import given
from hypothesis import strategies as st

from emoji_pairs.captions import BARE, CAPTIONS, caption, captions, name_of, with_article


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cow face", "a cow face"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("euro banknote", "a euro banknote"),
        ("hourglass done", "an hourglass done"),
        ("8 ball", "an 8 ball"),
        ("grapes", "grapes"),
        ("bus", "a bus"),
        ("dress", "a dress"),
        ("octopus", "an octopus"),
        ("cat with tears of joy", "a cat with tears of joy"),
        ("money with wings", "money with wings"),
        ("broccoli", "broccoli"),
    ],
)
def test_article(name: str, said: str) -> None:
    assert with_article(name) == said


def test_names_are_said_as_one_says_them() -> None:
    assert name_of(concept(label="flag: Germany")) == "flag of germany"
    assert name_of(concept(label="family: man, boy")) == "family of man, boy"
    assert name_of(concept(label="keycap: 1")) == "keycap 1"
    assert name_of(concept(label="Statue of Liberty")) == "statue of liberty"


words = st.text("abcdefgh", min_size=1, max_size=8)


@given(st.lists(words, min_size=1, max_size=4), st.lists(words, max_size=9, unique=True), st.integers(0, 9))
def test_captions_follow_the_rule(label: list[str], tags: list[str], seed: int) -> None:
    made = concept(label=" ".join(label).title(), tags=tuple(tags))
    texts = captions(made, seed)
    assert texts == captions(made, seed)
    assert len(texts) == CAPTIONS
    assert texts.count(name_of(made)) >= round(BARE * CAPTIONS)
    assert all(text == text.lower() and name_of(made) in text for text in texts)


def test_a_seed_and_a_concept_have_captions_of_their_own() -> None:
    cow = concept()
    assert captions(cow, 0) != captions(cow, 1)
    assert captions(concept("1f404"), 0) != captions(cow, 0)


def test_sentences_are_distinct_where_there_is_enough_to_say() -> None:
    rich = concept(tags=("farm", "moo", "milk", "cattle", "dairy"))
    sentences = [text for text in captions(rich, 0) if text != name_of(rich)]
    assert len(sentences) == len(set(sentences))


def test_tags_add_what_the_label_does_not_say() -> None:
    made = concept(label="cow face", tags=("cow", "face", "moo", "tv"))
    said = " ".join(captions(made, 0))
    assert "moo" in said
    assert ", cow" not in said
    assert "tv" not in said


def test_each_drawing_has_its_one_caption() -> None:
    made = concept(tags=("farm", "moo", "milk"))
    assert caption(made, "noto", 0) == caption(made, "noto", 0)
    assert len({caption(made, style, 0) for style in "abcdefgh"}) > 1
