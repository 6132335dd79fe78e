"""Class names in templates: both placeholders, and braces in names."""

from hypothesis import given
from hypothesis import strategies as st

from diptych.evaluation.prompts import fill, prompts


@given(st.text(), st.text(alphabet="ab %"), st.text(alphabet="ab %"))
def test_fill_puts_any_name_at_the_placeholder(name, before, after):
    assert fill(before + "{}" + after, name) == before + name + after
    assert fill(before + "{c}" + after, name) == before + name + after


def test_fill_at_every_placeholder():
    assert fill("{} or {c}", "{}") == "{} or {}"


def test_prompts_keep_a_class_together():
    assert prompts(["cat", "dog"], ["a {}", "{}!"]) == ["a cat", "cat!", "a dog", "dog!"]
