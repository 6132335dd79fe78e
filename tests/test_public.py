"""The names that users type in Python: those of the contract, and those that README and docs import."""

from __future__ import annotations

import ast
import re
from importlib import import_module

import pytest
from found import found

from diptych.base.files import ROOT

CONTRACT = {
    "diptych": ("Tokenizer", "create_model", "load", "zero_shot_classifier", "distributed"),
    "diptych.data": ("Order", "eval_image", "train_image"),
    "diptych.interop": ("from_open_clip", "to_open_clip"),
    "diptych.loss": ("ContrastiveLoss",),
    "diptych.training": ("build_step",),
}
PAGES = [ROOT / "README.md", *found(ROOT / "docs", "**/*.md")]


@pytest.mark.parametrize("module", CONTRACT)
def test_every_name_of_the_contract_is_there(module: str) -> None:
    for name in CONTRACT[module]:
        assert hasattr(import_module(module), name), name


def test_every_import_of_ours_on_a_page_works() -> None:
    seen = 0
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diptych"):
                    for alias in node.names:
                        assert hasattr(import_module(str(node.module)), alias.name), f"{page.name}: {alias.name}"
                        seen += 1
    assert seen
