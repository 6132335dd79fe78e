"""The page's section on sets and prompts, from whatever metrics.json holds."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.report.record import Record
from diptych.report.sets import sets

PROMPTS = {"from": "the run's", "count": 5, "sha256": "ab" * 32, "first": "<b>{}</b>"}


def test_sets_that_share_prompts_are_one_row() -> None:
    facts = {"prompts": PROMPTS, "unused": {"hidden": {"n": 7, "names": ["a", "b"]}}, "remarks": ["odd"]}
    told = {"zeroshot": {"one": facts, "two": {"prompts": PROMPTS}}, "probe": {"one": facts}}
    found = sets(Record("run", "", metrics={"sets": told}))
    assert found["prompts"] == [
        {"sets": ["one", "two"], "from": "the run's", "count": "5", "sha256": "ab" * 6, "first": "<b>{}</b>"}
    ]
    assert found["remarks"] == [
        {"sets": ["one"], "remark": "not used, hidden (7): a, b"},
        {"sets": ["one"], "remark": "odd"},
    ]


@pytest.mark.parametrize(
    "told",
    [None, [], {"zeroshot": 3}, {"zeroshot": {"a": []}}, {"t": {"a": {"prompts": 1, "unused": [], "remarks": 2}}}],
)
def test_what_is_no_record_of_sets_shows_nothing(told: Any) -> None:
    assert sets(Record("run", "", metrics={"sets": told})) == {}
