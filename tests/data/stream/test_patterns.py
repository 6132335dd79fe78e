"""Braces, globs, folders and indices name shards; what names nothing is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.data.stream.index import open_index
from diptych.packing import shards
from samples import write_shards


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """a/ has an index of its two tars, b/ three tars without, and what macOS leaves."""
    write_shards(tmp_path / "a", [5, 3])
    write_shards(tmp_path / "b", [2, 2, 4], index=False)
    (tmp_path / "b/._train-000000.tar").write_bytes(b"\0\5\x16\7")
    (tmp_path / "b/notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "patterns, counts",
    [
        ("b/*.tar", [2, 2, 4]),
        ("b/train-00000[02].tar", [2, 4]),
        ("b/train-00000?.tar", [2, 2, 4]),
        ("b", [2, 2, 4]),
        ("b/", [2, 2, 4]),
        ("a", [5, 3]),
        ("a/*.json", [5, 3]),
        ("*/*.tar", [5, 3, 2, 2, 4]),
        ("{a,b}/*.tar", [5, 3, 2, 2, 4]),
        ("**/*.tar", [5, 3, 2, 2, 4]),
        ("b/train-{000002..000001}.tar", [4, 2]),
        (["b", "b/train-000001.tar", "a"], [5, 3, 2, 2, 4, 2]),
    ],
)
def test_what_patterns_name(sets: Path, patterns: str | list[str], counts: list[int]) -> None:
    given = f"{sets}/{patterns}" if isinstance(patterns, str) else [f"{sets}/{each}" for each in patterns]
    assert [shard.samples for shard in open_index(given).shards] == counts


def test_a_name_with_a_bracket_is_a_name(sets: Path) -> None:
    (sets / "b").rename(sets / "b [1]{2,3}")
    assert open_index(f"{sets}/b [1]{{2,3}}").samples == 8
    assert open_index(f"{sets}/b [1]{{2,3}}/train-000000.tar").samples == 2


@pytest.mark.parametrize(
    "pattern, why",
    [
        ("c/*.tar", r"c/\*\.tar matches no file"),
        ("empty", r"empty has no \.tar and no index\.json"),
        ("empty/*.tar", "matches no file"),
        ("b/*", r"matches .*b/notes\.txt, which is not a tar"),
        ("a/*", "and tars, which may have the same samples"),
        ("{000..999999999}.tar", "expands to more than 1,000,000 names"),
        ("{1..2000}{1..9999}{a,b}.tar", "expands to more than 1,000,000 names"),
        ("{", "write braces in pairs"),
        ("a}.tar", "write braces in pairs"),
        ("{0..%s}.tar" % ("9" * 5000), "write braces in pairs"),
        ("${NO_SUCH}.tar", "is not a valid pattern"),
        ("\ud800*/*.tar", "matches no file"),
    ],
)
def test_what_names_nothing_is_a_sentence(sets: Path, pattern: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.shards=.*{why}"):
        open_index(f"{sets}/{pattern}")


@pytest.mark.parametrize("given", [5, 0.5, None, {"a": "x.tar"}])
def test_shards_that_are_no_address_are_a_sentence(given: object) -> None:
    with pytest.raises(UserError, match=r"^data\.shards=.* is not an address: give an index\.json"):
        open_index(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["http://host/*.tar", "s3://bucket/{a,b}*.tar"])
def test_a_server_is_not_listed(pattern: str) -> None:
    with pytest.raises(UserError, match=r"has a '\*', but the files of a server can't be listed"):
        open_index(pattern)


@pytest.mark.parametrize("given", [[None], [""], [3], " "])
def test_what_is_no_pattern(given: object) -> None:
    with pytest.raises(UserError, match=r"data\.shards"):
        open_index(given)  # type: ignore[arg-type]


def test_packing_takes_the_same_patterns(sets: Path) -> None:
    assert len(shards.listed(f"{sets}/b/*.tar")) == len(shards.listed(f"{sets}/b")) == 3
    assert shards.listed(f"{sets}/a") == [f"{sets}/a/train-00000{n}.tar" for n in (0, 1)]
    with pytest.raises(UserError, match=r"^path=.*matches no file"):
        shards.listed(f"{sets}/c/*.tar")
