"""YAML from elsewhere: plain data, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.base import plain
from diptych.base.errors import UserError

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20) | st.sampled_from(
    [
        "1e-6",
        "2020-01-01",
        "null",
        "~",
        "yes",
        "on",
        "1:30",
        "010",
        "<<",
        "=",
        "!!x",
        "*a",
        "&b",
        ".5",
        "+.inf",
        "${a}",
    ]
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(TEXTS, PLAIN, max_size=5))
def test_what_was_written_is_read_again(config: dict) -> None:
    assert plain.same(plain.parse(plain.dump(config), "x"), config)


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
REFUSED = {
    LAUGHS: "aliases",
    "a: &x {b: 1}\nc: {<<: *x}": "aliases",
    "a: !!python/object/apply:os.system ['true']": "the tag",
    "a: !!python/name:os.system": "the tag",
    "a: !include x": "the tag",
    "a: !!binary aGk=": "the tag",
    "a: 1\nb: 2\na: 3": "the key 'a' twice",
    "1: 2": "is not text",
    "? [a, b]\n: 1": "is not text",
    "a: " + "[" * 100_000: "nest",
    "{a: " * 100_000: "nest",
    "- " * 100_000: "nest",
    "a: " + "9" * 5_000: "digits",
    "a: 1\n---\nb: 2": "another document",
    "a: \x00": "not plain data",
    "a: [": "not plain data",
    "[1]": "a list",
    "": "a NoneType",
}


@pytest.mark.parametrize(("text", "why"), REFUSED.items(), ids=[text[:12] for text in REFUSED])
def test_anything_else_is_one_sentence(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=why) as refused:
        plain.read(file)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.yaml").open("w") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="a config of 1,099,511,627,776 bytes"):
        plain.read(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="can't be read"):
        plain.read(tmp_path)
