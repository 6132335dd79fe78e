"""What we print, and what we tell the user to type: a shell and Hydra read the value that was meant."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from diptych.base.errors import UserError
from diptych.base.terminal import counted, shell, to_type
from diptych.commands.resume import check_run
from diptych.interop.formats import read

VALUES: list[Any] = [
    "a", "runs/a b/c", "x=1", "a's", "it's \\", "\\'", "a$b", "a {}", "1e3", "true", "nan", "-1", "1_000", ".5",
    "NULL", "~x", "a,b", "", "a:b", "http://h/x?y=1&z=2", "été", "#x", " a ", "a!b'c", "..", "\\", "*.tar", "a\tb",
    "{0..3}.tar", 1, 2.5, None, True, ["a {}.", "the {}"], [0.5, 1, "1"], {"a": "x=1", "b": [None]},
]  # fmt: skip


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value.text if isinstance(value, QuotedString) else value


def test_what_is_typed_is_read_as_it_was_meant() -> None:
    typed = " ".join(to_type("key", value) for value in VALUES)
    given = subprocess.run(["bash", "-c", f"printf '%s\\0' {typed}"], capture_output=True, text=True).stdout
    read = [OverridesParser.create().parse_override(each) for each in given.split("\0")[:-1]]
    assert [repr(plain(each.value())) for each in read] == list(map(repr, VALUES))


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("resume=/runs/a", "resume=/runs/a"),
        ("~optim.foo", "~optim.foo"),
        ("a=[1,2]", "'a=[1,2]'"),
        ("a='b c'", "\"a='b c'\""),
    ],
)
def test_quotes_are_those_that_are_needed_and_easiest_to_read(argument: str, shown: str) -> None:
    assert shell(argument) == shown


def test_one_is_singular_and_thousands_have_commas() -> None:
    said = [counted(number, "finding") for number in (0, 1, 2, 1000)]
    assert said == ["0 findings", "1 finding", "2 findings", "1,000 findings"]
    assert counted(1, "class", "classes") == "1 class" and counted(2, "class", "classes") == "2 classes"


def make_run(folder: str, when: int) -> None:
    Path(folder, "checkpoints").mkdir(parents=True)
    Path(folder, "config.yaml").write_text("")
    os.utime(folder, (when, when))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothere", "nothere does not exist: give a run's folder."),
        ("runs/dmo/1", "runs/dmo/1 does not exist: did you mean resume=runs/demo/1"),
        ("demo", "demo does not exist: did you mean resume=runs/demo/2 or resume=runs/demo/1?"),
        ("runs/demo", "runs/demo holds no config.yaml, so it is no run: did you mean resume=runs/demo/2 or"),
        ("runs/my lot/7/checkpoints", "is a part of a run: type 'resume="),
        ("my lott", "did you mean 'resume=runs/my lot/7'?"),
        ("file", "file holds no config.yaml, so it is no run: give a run's folder."),
    ],
)
def test_a_resume_of_no_run_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for when, folder in enumerate(("runs/demo/1", "runs/demo/2", "runs/my lot/7")):
        make_run(folder, when)
    Path("file").write_text("")
    with pytest.raises(UserError) as error:
        check_run(Path(given).absolute())
    assert said in str(error.value) and str(error.value).startswith(f"resume={tmp_path / given} ")


def test_a_checkpoint_of_no_run_names_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("runs/demo/1", 0)
    with pytest.raises(UserError, match="does not exist: did you mean checkpoint=runs/demo/1"):
        read("runs/demo/l")


@pytest.mark.parametrize(
    "argument",
    [
        "+logger.api_key='SECRET',\"SECRET\"",
        "+logger.api_key={a: SECRET}",
        "+logger.api_key=a SECRET",
        "x={token: 'SECRET'}",
    ],
)
def test_what_to_type_has_no_secret_whatever_its_quotes(argument: str) -> None:
    assert "SECRET" not in shell(argument) and "hidden" in shell(argument)
