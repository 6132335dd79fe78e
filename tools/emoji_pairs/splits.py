"""Which styles, concepts and single drawings are trained on, and which are kept for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from emoji_pairs.concepts import Concept
from emoji_pairs.drawings import Drawings

TRAIN = ("noto", "noto-v1", "twemoji", "emojione", "emojione-v1")
# The three Fluent styles share their drawings, so none of them is trained on.
SHIFTS = ("fluent-flat", "fluent-3d", "fxemoji", "openmoji", "fluent-high-contrast")
REDRAWN = "emojione-monotone"
Drawing = tuple[str, str]  # concept key, style


@dataclass(frozen=True)
class Splits:
    """seen, unseen: core concepts in emojibase's order; held_out, train: drawings in training styles."""

    seen: list[Concept]
    unseen: list[Concept]
    held_out: set[Drawing]
    train: dict[str, list[str]]  # key of every concept that is trained on -> its styles


@dataclass(frozen=True)
class SetPlan:
    """One evaluation set: its classes, its drawings in the order of their labels, and what it measures."""

    name: str
    role: str
    note: str
    classes: list[Concept]
    drawings: list[Drawing]

    def describe(self) -> dict[str, int | str]:
        counts = {"classes": len(self.classes), "drawings": len(self.drawings)}
        return {**counts, "role": self.role, "note": self.note}


def split(known: list[Concept], drawings: Drawings, seed: int, unseen: int, held_out: int) -> Splits:
    """Draw `unseen` core concepts and `held_out` drawings; everything else in a training style is trained on."""
    core = [concept for concept in known if concept.core]
    kept_back = set(Random(f"{seed}/unseen").sample([concept.key for concept in core], unseen))
    seen = [concept for concept in core if concept.key not in kept_back]
    held_back = _hold_out(seen, drawings, seed, held_out)
    train: dict[str, list[str]] = {}
    for concept in known:
        styles = [style for style in TRAIN if concept.key in drawings[style]]
        styles = [style for style in styles if (concept.key, style) not in held_back]
        if styles and concept.key not in kept_back:
            train[concept.key] = styles
    return Splits(seen, [concept for concept in core if concept.key in kept_back], held_back, train)


def _hold_out(seen: list[Concept], drawings: Drawings, seed: int, count: int) -> set[Drawing]:
    """At most one drawing of a concept, and only of concepts that keep two others to train on.

    A drawing that another training style repeats pixel for pixel is not held out.
    """
    random = Random(f"{seed}/held-out")
    candidates = []
    for concept in seen:
        pictures = {style: drawings[style][concept.key] for style in TRAIN if concept.key in drawings[style]}
        own = [style for style in pictures if list(pictures.values()).count(pictures[style]) == 1]
        if len(pictures) >= 3 and own:
            candidates.append((concept.key, random.choice(own)))
    return set(random.sample(candidates, count))


def plan_sets(splits: Splits, drawings: Drawings) -> list[SetPlan]:
    """The evaluation sets, the one for choosing recipes first."""
    seen = splits.seen

    def of(style: str) -> list[Drawing]:
        return [(concept.key, style) for concept in seen if concept.key in drawings[style]]

    note = "drawings of trained concepts in trained styles, kept from training: choose recipes on these"
    sets = [SetPlan("heldout", "validation", note, seen, _ordered(seen, TRAIN, splits.held_out.__contains__))]
    for style in SHIFTS:
        sets.append(SetPlan(style, "shift", "a style that was never trained on", seen, of(style)))
    sets.append(SetPlan(REDRAWN, "redrawn", "redrawn from emojione, which is trained on", seen, of(REDRAWN)))
    note = "concepts that were never trained on, in all styles but the redrawn one"
    everywhere = _ordered(splits.unseen, TRAIN + SHIFTS, lambda drawing: drawing[0] in drawings[drawing[1]])
    return [*sets, SetPlan("unseen", "unseen", note, splits.unseen, everywhere)]


def _ordered(classes: list[Concept], styles: tuple[str, ...], wanted: Callable[[Drawing], bool]) -> list[Drawing]:
    every = [(concept.key, style) for concept in classes for style in styles]
    return [drawing for drawing in every if wanted(drawing)]
