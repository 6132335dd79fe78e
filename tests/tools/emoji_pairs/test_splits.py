from __future__ import annotations

from random import Random

from emoji_samples import concept
from hypothesis import given, settings
from hypothesis import strategies as st

from emoji_pairs.drawings import Drawings, drop_shared
from emoji_pairs.splits import REDRAWN, SHIFTS, TRAIN, plan_sets, split

ANIMALS = [concept(f"{number:04x}", f"animal {number}") for number in range(60)]
KNOWN = [*ANIMALS, concept("ffff", "person", group="people-body")]


def some_drawings(seed: int) -> Drawings:
    """Half of the concepts in all training styles, half in one to five; no two pictures the same."""
    random = Random(seed)
    drawings: Drawings = {style: {} for style in (*TRAIN, *SHIFTS, REDRAWN)}
    for number, one in enumerate(KNOWN):
        trained = TRAIN if number % 2 else random.sample(TRAIN, random.randint(1, len(TRAIN)))
        for style in (*trained, *random.sample(SHIFTS, 2)):
            drawings[style][one.key] = f"{style} {one.key}".encode()
    return drawings


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_splits_are_disjoint_and_leave_two_drawings(drawn: int, seed: int) -> None:
    splits = split(KNOWN, some_drawings(drawn), seed, unseen=6, held_out=20)
    assert len(splits.unseen) == 6
    assert len(splits.held_out) == 20
    assert sorted(one.key for one in splits.seen + splits.unseen) == sorted(one.key for one in ANIMALS)
    assert not {one.key for one in splits.unseen} & set(splits.train)
    assert "ffff" in splits.train  # what is no class is trained on all the same
    for key, style in splits.held_out:
        assert style not in splits.train[key]
        assert len(splits.train[key]) >= 2
    assert {style for styles in splits.train.values() for style in styles} <= set(TRAIN)


def full() -> Drawings:
    return {style: {one.key: f"{style} {one.key}".encode() for one in KNOWN} for style in (*TRAIN, *SHIFTS, REDRAWN)}


def test_held_out_concepts_lose_one_drawing_each() -> None:
    splits = split(KNOWN, full(), seed=0, unseen=10, held_out=30)
    assert len(splits.held_out) == 30
    assert len({key for key, _ in splits.held_out}) == 30


def test_a_drawing_that_another_training_style_repeats_is_not_held_out() -> None:
    drawings = full()
    for one in KNOWN:
        for style in TRAIN[1:]:
            drawings[style][one.key] = one.key.encode()
    splits = split(KNOWN, drawings, seed=0, unseen=10, held_out=50)
    assert {style for _, style in splits.held_out} == {TRAIN[0]}


def test_sets_name_their_role_and_never_mix() -> None:
    drawings = full()
    splits = split(KNOWN, drawings, seed=0, unseen=10, held_out=30)
    sets = {plan.name: plan for plan in plan_sets(splits, drawings)}
    assert list(sets) == ["heldout", *SHIFTS, REDRAWN, "unseen"]
    assert [name for name, plan in sets.items() if plan.role == "validation"] == ["heldout"]
    assert [name for name, plan in sets.items() if plan.role == "shift"] == list(SHIFTS)
    assert sets[REDRAWN].role == "redrawn"
    assert sets["heldout"].classes == sets["openmoji"].classes == splits.seen
    assert len(sets["unseen"].drawings) == 10 * len(TRAIN + SHIFTS)
    for name in SHIFTS:
        assert sets[name].drawings == [(one.key, name) for one in splits.seen]


def test_a_picture_under_two_names_is_left_out_of_its_style_only() -> None:
    drawings = {"one": {"a": b"heart", "b": b"heart", "c": b"cow"}, "two": {"a": b"red", "b": b"blue"}}
    assert drop_shared(drawings) == {"one": {"c": b"cow"}, "two": {"a": b"red", "b": b"blue"}}
