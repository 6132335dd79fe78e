"""What each kind of page leads with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.report.lead import few, lead, prompts, title
from diptych.report.record import Record, read

SHOTS = {"1": {"top1": 0.1}, "4": {"top1": 0.6}}
METRICS: dict[str, Any] = {
    "zeroshot": {"top1": 0.5, "sets": {"a": {"top1": 0.5, "n": 10, "classes": 4}}},
    "retrieval": {"a": {"text_to_image": {"R@1": 0.25}, "n": 10}},
    "fewshot": {"sets": {"a": {"zeroshot": 0.5, "curves": {"linear_probe": SHOTS}}}},
    "quality": {"a": {"gap": 0.37}},
    "probe": {"a": {"linear_probe": 0.7}},
    "pairs": {"n": 8, "loss": 1.5, "text_to_image": {"R@1": 0.125}},
}


@pytest.mark.parametrize(
    ("task", "big", "what"),
    [
        ("zeroshot", "50.0", "mean zero-shot top-1 over 1 set"), ("retrieval", "25.0", "recall@1 from text to image"),
        ("fewshot", "60.0", "from 4 labelled pictures a class, one set; zero-shot 50.0"), ("quality", "0.37", "gap"),
        ("probe", "70.0", "linear probe"),
    ],
)  # fmt: skip
def test_an_evaluation_leads_with_its_own_number(task: str, big: str, what: str) -> None:
    record = Record("x", "", metrics=METRICS, evaluation=True, task=task)
    assert lead(record)["big"] == big and what in lead(record)["what"]
    assert title(record) != "run report"


def test_a_run_without_labelled_sets_leads_with_its_pairs_and_lacks_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: own")
    for name in ("environment.txt", "metrics.jsonl", "samples.json"):
        (tmp_path / name).write_text('{"step": 1, "read": 1}')
    (tmp_path / "metrics.json").write_text(json.dumps({"pairs": METRICS["pairs"]}))
    record = read(tmp_path)
    assert record.missing == {} and title(record) == "run report"
    found = lead(record)
    assert found["big"] == "12.5" and "8 pairs held out of training; loss 1.50" in found["what"]
    assert "data.evaluate=FOLDER" in found["what"]
    assert "8 pairs are few: chance is 12.5 %; data.validation=N holds out more." in found["what"]
    assert few(99) and not few(100) and not few(None) and few(1).startswith(" 1 pair is few")


@pytest.mark.parametrize("odd", [None, 3, [], {"a": 3}, {"sets": {"a": {"curves": []}}}])
def test_nothing_in_metrics_is_trusted(odd: Any) -> None:
    for task in (*METRICS, ""):
        record = Record("x", "", metrics=dict.fromkeys((*METRICS, "sets"), odd), evaluation=bool(task), task=task)
        assert lead(record)["big"] in ("", "–", "0.00", "0.0") and prompts(record) == ""
