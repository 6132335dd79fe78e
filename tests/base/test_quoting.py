"""What a message says to type, typed: a shell and Hydra's grammar read the value that was meant."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from diptych.base.quoting import shell, to_type

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
