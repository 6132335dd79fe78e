"""What evaluate and embed say: of a user's own task, as docs/evaluation.md shows one, and of what is missing."""

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
def kept_checkpoint(tmp_path: Path) -> Path:
    """The last checkpoint of a small run."""
    with tarfile.open(ROOT / "tests/golden/kept.tar.gz") as tar:
        tar.extractall(tmp_path / "kept", filter="data")
    (found,) = (tmp_path / "kept").rglob("last.ckpt")
    return found


@pytest.fixture
def own(
    tmp_path: Path, class_folder: Path, kept_checkpoint: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> Callable:
    """Evaluates a small run with the page's task in a module of the given name -> what the command ended with."""
    (tmp_path / "conf/task").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))

    def evaluate(name: str, module: str, config: str) -> object:
        (tmp_path / f"{name}.py").write_text(module, encoding="utf-8")
        (tmp_path / "conf/task/own.yaml").write_text(config.replace("mine", name), encoding="utf-8")
        sets = ("data=folder", f"data.path={class_folder}", f"out={tmp_path / 'out'}")
        return cli(
            "evaluate", "--config-dir", str(tmp_path / "conf"), f"checkpoint={kept_checkpoint}", "task=own", *sets
        )

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


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("evaluate", ("data=folder",), "data.path= is missing: type data.path=DIR."),
        ("evaluate", ("task=fewshot", "data=folder", "data.path={folder}"), "type task.train=null for a task that"),
    ],
)
def test_what_a_folder_lacks_is_named_by_the_key_to_type(
    cli: Callable, tmp_path: Path, class_folder: Path, kept_checkpoint: Path, command: str, given: tuple, said: str
) -> None:
    typed = [each.format(folder=class_folder) for each in given]
    ended = cli(command, f"checkpoint={kept_checkpoint}", *typed, f"out={tmp_path / 'out'}")
    assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_embeddings_that_were_there_are_said_to_be_replaced(
    cli: Callable, tmp_path: Path, class_folder: Path, kept_checkpoint: Path
) -> None:
    given = (f"checkpoint={kept_checkpoint}", "data=folder", f"data.path={class_folder}", f"out={tmp_path / 'out'}")
    first, again = cli("embed", *given), cli("embed", *given)
    assert first.code == again.code == 0
    assert "is replaced" not in first.err and f"{tmp_path / 'out'}/embeddings.parquet is replaced." in again.err
