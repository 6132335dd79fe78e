"""The arrows of the house point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from found import found

SRC = Path(__file__).parents[1] / "src"
FILES = found(SRC / "diptych", "**/*.py")

RUN = ("diptych.run", "diptych.fitting")  # which hold raw configs

# part -> what it may not import
FORBIDDEN = {
    "towers": ("diptych.data", "diptych.evaluation", "diptych.training", *RUN, "lightning", "hydra"),
    "data": ("diptych.towers", "diptych.evaluation", "diptych.training", *RUN, "hydra", "omegaconf"),
    "evaluation": ("diptych.towers", "diptych.data", "diptych.training", *RUN, "lightning", "hydra"),
    "loss": ("diptych.towers", "diptych.data", "diptych.evaluation", "diptych.training", "lightning", "hydra"),
    "study": ("diptych.training", "diptych.data", "diptych.towers", *RUN, "lightning", "hydra"),
    "training": ("hydra", "omegaconf", *RUN, "diptych.study"),
}


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_arrows(file: Path) -> None:
    part = file.relative_to(SRC / "diptych").parts[0].removesuffix(".py")
    found = imports(file)
    for forbidden in FORBIDDEN.get(part, ()):
        assert not {name for name in found if name == forbidden or name.startswith(f"{forbidden}.")}
    if part not in (
        "run",
        "fitting",
        "config",
        "creating",
        "boundary",
        "overrides",
        "checking",
        "sweeps",
    ):  # which speak of configs
        assert not {name for name in found if name.split(".")[0] == "hydra"}
    if part not in ("run", "fitting", "training") and file.name != "datamodule.py":
        assert not {name for name in found if name.split(".")[0] == "lightning"}


# Where Python's idea of a line will do: what programs and errors say, and bytes, which it splits at newlines alone.
SPLIT_LINES = {
    "interop/files.py",
    "world.py",
    "data/reading/pipe.py",
    "data/sources/emoji_packages.py",
    "training/loggers.py",
}


def test_files_are_utf8_and_lines_end_at_newlines() -> None:
    """The locale must not decide what a file says, nor `splitlines`, which splits at U+2028 too, within names."""
    seen = 0
    for file in FILES:
        name = str(file.relative_to(SRC / "diptych"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called, where = node.func.attr, f"{name}, line {node.lineno}"
            if called in ("read_text", "write_text"):
                seen += 1
                given = [word.arg for word in node.keywords]
                given += [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                assert {"encoding", "utf-8"} & set(given), f"{where}: say encoding="
            assert called != "splitlines" or name in SPLIT_LINES, f"{where}: take textfile.split_lines"
    assert seen > 10


def test_importing_diptych_costs_nothing() -> None:
    """No torch, wandb or matplotlib before they are used, so that --help is quick."""
    import subprocess
    import sys

    code = "import sys, diptych.run; print(sorted({'torch', 'wandb', 'matplotlib', 'lightning'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC)
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr
