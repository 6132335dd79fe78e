from __future__ import annotations

from typing import Any

from emoji_samples import concept

from emoji_pairs.concepts import Concept, code_points, concepts, join, slug


def icons(*names: str, aliases: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"icons": {name: {"body": name} for name in names}, "aliases": aliases or {}}


def entry(code: str, label: str, group: int | None, order: int) -> dict[str, Any]:
    return {"hexcode": code, "label": label, "tags": ["Tag"], "group": group, "order": order}


def test_concepts_come_in_order_without_components_and_single_letters() -> None:
    entries = [
        entry("1F550", "one o’clock", 5, 3),
        entry("1F3FB", "light skin tone", 2, 2),
        entry("1F42E", "cow face", 3, 1),
        {"hexcode": "1F1E6", "label": "regional indicator A"},
    ]
    groups = {"2": "component", "3": "animals-nature", "5": "travel-places"}
    cow, clock = concepts(entries, groups, {"1F42E": "COW FACE"})
    assert cow == Concept("1f42e", "cow face", ("tag",), "animals-nature", "COW FACE")
    assert clock.label == "one o'clock"
    assert cow.core
    assert not clock.core


def test_people_flags_and_symbols_are_no_classes() -> None:
    for group in ("people-body", "flags", "symbols"):
        assert not concept(group=group).core


def test_codes_are_matched_without_variation_selectors() -> None:
    known = [concept("2764-fe0f-200d-1f525", "heart on fire"), concept("1f42e", "cow face")]
    assert code_points("2764-FE0F-200D-1F525") == "2764-200d-1f525"
    joined = join(known, icons("burning", "cow"), {"2764-200d-1f525": "burning", "1f42e": "cow"})
    assert joined == {"2764-fe0f-200d-1f525": "burning", "1f42e": "cow"}


def test_an_icon_that_the_codes_name_but_the_package_lacks_is_left_out() -> None:
    assert join([concept()], icons("ox"), {"1f42e": "cow"}) == {}


def test_names_match_with_and_without_hyphens_accents_and_quotes() -> None:
    assert slug("woman's boot") == slug("womans-boot") == "womansboot"
    assert slug("piñata") == "pinata"
    known = [concept("a", "alarm clock"), concept("b", "tram car")]
    assert join(known, icons("alarmclock", "tram-car"), {}) == {"a": "alarmclock", "b": "tram-car"}


def test_unicode_names_come_after_labels() -> None:
    known = [concept("a", "wolf", unicode_name="WOLF FACE"), concept("b", "wolf face")]
    assert join(known, icons("wolf-face"), {}) == {"b": "wolf-face"}
    assert join(known[:1], icons("wolf-face"), {}) == {"a": "wolf-face"}


def test_an_alias_does_not_take_an_icon_that_is_anothers_by_name() -> None:
    known = [concept("1f997", "cricket"), concept("1f3cf", "cricket game")]
    package = icons("cricket-game", aliases={"cricket": {"parent": "cricket-game"}})
    assert join(known, package, {}) == {"1f3cf": "cricket-game"}
    assert join(known[:1], package, {}) == {"1f997": "cricket-game"}


def test_a_mirrored_alias_is_another_drawing() -> None:
    mirrored = {"left": {"parent": "right", "hFlip": True}}
    assert join([concept("a", "left")], icons("right", aliases=mirrored), {}) == {}


def test_a_name_that_fits_two_concepts_joins_neither() -> None:
    known = [concept("a", "keycap: #"), concept("b", "keycap: *")]
    assert join(known, icons("keycap"), {}) == {}
