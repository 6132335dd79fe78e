"""A user's own evaluation: it runs as docs/evaluation.md shows, and what it lacks is said before it runs."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.base.files import ROOT

PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8").partition("## Write your own evaluation")[2]
MODULE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
CONFIG = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.fixture
def own(tmp_path: Path, class_folder: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Evaluates a small run with the page's task in a module of the given name -> what the command ended with."""
    with tarfile.open(ROOT / "tests/golden/kept.tar.gz") as tar:
        tar.extractall(tmp_path / "kept", filter="data")
    (run,) = (tmp_path / "kept").rglob("last.ckpt")
    (tmp_path / "conf/task").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))

    def evaluate(name: str, module: str, config: str) -> object:
        (tmp_path / f"{name}.py").write_text(module, encoding="utf-8")
        (tmp_path / "conf/task/own.yaml").write_text(config.replace("mine", name), encoding="utf-8")
        sets = ("data=folder", f"data.path={class_folder}", f"out={tmp_path / 'out'}")
        return cli("evaluate", "--config-dir", str(tmp_path / "conf"), f"checkpoint={run}", "task=own", *sets)

    return evaluate


def test_the_example_of_the_docs_works_as_printed(own: Callable, tmp_path: Path) -> None:
    ended = own("task_as_printed", MODULE, CONFIG)
    assert ended.code == 0, ended.err
    ((name, value),) = json.loads((tmp_path / "out/metrics.json").read_text())["spread"].items()
    assert 0 < value < 1 and f"{name}: spread {value}" in ended.out
    assert "task=own: task_as_printed has no PAGE" in ended.out and "report.html has not" in ended.out


@pytest.mark.parametrize(
    ("name", "without", "said"),
    [
        ("task_not_partial", "_partial_: true", "task=own needs `_partial_: true`"),
        ("task_no_table", "def table", "task=own: task_no_table has no function table(metrics)"),
    ],
)
def test_what_it_lacks_is_said_before_anything_is_measured(
    own: Callable, tmp_path: Path, name: str, without: str, said: str
) -> None:
    assert without in MODULE + CONFIG
    ended = own(name, MODULE.replace(without, "def other"), CONFIG.replace(without, "#"))
    assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
