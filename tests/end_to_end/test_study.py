"""`make study` in a few steps: three trainings, three tasks, one report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.base.files import ROOT

pytestmark = pytest.mark.slow


def test_the_study_in_short(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "src/study.py"), "6"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (out,) = (tmp_path / "runs/study").iterdir()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["robustness"].keys() == metrics["fewshot"]["sets"].keys() == metrics["prompts"]["sets"].keys()
    for name, row in metrics["robustness"].items():
        columns = [row[each] for each in ("supervised", "visual_ngrams", "zeroshot", "difference")]
        assert (None in columns) == (name == "unseen") and len(row["interval"]) == 2
        assert row["linear_probe"] is None and "no labelled training" in row["not_computed"]["linear_probe"]
    assert metrics["robustness_mean"]["n"] > 3000
    steps = {each: json.loads((out / each / "metrics.json").read_text())["training"] for each in
             ("clip", "supervised", "visual_ngrams")}  # fmt: skip
    assert {(each["steps"], each["pairs"]) for each in steps.values()} == {(6, 6 * 256)}
    page = (out / "report.html").read_text()
    assert all(f'id="{section}"' in page for section in ("robustness", "fewshot", "prompts"))
    assert f"report: {out / 'report.html'}" in ended.stdout
