"""The arrows of the house point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted((SRC / "diptych").rglob("*.py"))

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
    if part not in ("run", "fitting", "config"):
        assert not {name for name in found if name.split(".")[0] == "hydra"}
    if part not in ("run", "fitting", "training") and file.name != "datamodule.py":
        assert not {name for name in found if name.split(".")[0] == "lightning"}


def test_importing_diptych_costs_nothing() -> None:
    """No torch, wandb or matplotlib before they are used, so that --help is quick."""
    import subprocess
    import sys

    code = "import sys, diptych.run; print(sorted({'torch', 'wandb', 'matplotlib', 'lightning'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC)
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr
