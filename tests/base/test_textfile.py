"""A key that stands twice is refused by every reader of JSON and YAML: none keeps the last in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diptych.base import plain, textfile
from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.index import read_index
from diptych.data.stream.pairs import BadSample, captions_of, field_of, group_of
from diptych.interop.files import read_json
from diptych.packing import energon, img2dataset

JSON = '{"version": 1, "shards": [], "caption": "a", "caption": "b"}'
YAML = "caption: a\nshards: []\ncaption: b\n"


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (textfile.read_json, JSON),
        (read_json, JSON),
        (lambda file: read_index(str(file), Files()), JSON),
        (img2dataset._stats, JSON),
        (plain.read, YAML),
    ],
)
def test_a_file_is_refused(tmp_path: Path, read: Callable[[Path], Any], text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(UserError, match=r"the key \\?'caption\\?' twice in one object"):
        read(file)


@pytest.mark.parametrize(("name", "text"), [(".info.json", JSON), (".info.yaml", YAML)])
def test_what_energon_wrote_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / energon.META).mkdir()
    (tmp_path / energon.META / name).write_text(text)
    with pytest.raises(UserError, match="the key 'caption' twice in one object"):
        energon.read(str(tmp_path), None)


def test_a_sample_is_bad() -> None:
    sample = {"json": JSON.encode()}
    for ask in (captions_of, lambda sample: field_of(sample, "n"), lambda sample: group_of(sample, "n")):
        with pytest.raises(BadSample, match=r"^\.json has the key 'caption' twice in one object$"):
            ask(sample)
