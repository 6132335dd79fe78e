"""Templates are read whole, or refused where one would say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.base.templates import parse_templates, read_templates, remembered


def test_parse_templates_reads_both_placeholders() -> None:
    assert parse_templates("a photo of a {c}.\n\n  a {} drawing \r\n") == ["a photo of a {}.", "a {} drawing"]


@pytest.mark.parametrize("text", ["a photo of a {}.\na photo", "a photo of a {name}"])
def test_a_template_without_placeholder_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"has no \{\}"):
        parse_templates(text)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        parse_templates("\n \n")


def test_a_line_that_is_no_template_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a {}\n\nno name\n")
    with pytest.raises(UserError, match=r"t\.txt, line 3: the template 'no name' has no \{\}"):
        read_templates(tmp_path / "t.txt")


def test_what_a_checkpoint_remembers_is_not_trusted() -> None:
    assert remembered({"templates": ["a {c}", "{}!"]}) == ["a {}", "{}!"]
    for told in (None, [], "{}", ["no name"], [1], {"{}": 1}):
        assert remembered({"templates": told}) == []
    assert remembered({}) == []
