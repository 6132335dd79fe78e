"""A command line's config as plain data."""

from __future__ import annotations

import pytest

from diptych.base.files import ROOT
from diptych.commands import config, overrides
from diptych.commands.resolvers import register_resolvers


@pytest.mark.parametrize(("typed", "name"), [("2026", "2026"), ("1.5", "1.5"), ("a", "a")])
def test_a_name_is_text_even_if_yaml_reads_a_number(typed: str, name: str) -> None:
    register_resolvers()
    found = config.composed(overrides.compose_config(ROOT / "conf", "train", [f"name={typed}", "run_dir=unused"]))
    assert found["name"] == name
