"""Templates: both placeholders, braces in names, and refusal of one that would say nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import UserError
from diptych.evaluation.prompts import fill, parse_lines, parse_templates, prompts


@given(st.text(), st.text(alphabet="ab %"), st.text(alphabet="ab %"))
def test_fill_puts_any_name_at_the_placeholder(name, before, after):
    assert fill(before + "{}" + after, name) == before + name + after
    assert fill(before + "{c}" + after, name) == before + name + after


def test_fill_at_every_placeholder():
    assert fill("{} or {c}", "{}") == "{} or {}"


def test_prompts_keep_a_class_together():
    assert prompts(["cat", "dog"], ["a {}", "{}!"]) == ["a cat", "cat!", "a dog", "dog!"]


def test_parse_templates_reads_both_placeholders():
    assert parse_templates("a photo of a {c}.\n\n  a {} drawing \r\n") == ["a photo of a {}.", "a {} drawing"]


def test_parse_lines_strips():
    assert parse_lines(" cow face \n\ncat\n") == ["cow face", "cat"]


@pytest.mark.parametrize("text", ["a photo of a {}.\na photo", "a photo of a {name}"])
def test_a_template_without_placeholder_is_refused(text):
    with pytest.raises(UserError, match=r"has no \{\}"):
        parse_templates(text)


def test_an_empty_file_is_refused():
    with pytest.raises(UserError, match="empty"):
        parse_templates("\n \n")
