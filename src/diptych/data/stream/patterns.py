"""Patterns in `data.shards=` and `path=`: braces, globs, folders and indices -> the single tars and indices."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from webdataset.shardlists import expand_urls

from diptych.base.errors import UserError
from diptych.data.io.address import is_local, local, shown

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
INDEX = "index.json"
MOST = 10**6  # names of one pattern; LAION's 5 billion pairs have 0.6 million tars
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")


def listed(patterns: str | Sequence[str], key: str, indices: bool = True) -> list[str]:
    """Every tar and index.json that the patterns name, in the patterns' order; a glob's or folder's sorted by name.

    indices: whether a folder means its index.json, if it has one; otherwise it means its tars
    key: where `patterns` stands in the config, for messages
    Raises UserError for a pattern that names nothing, and for a glob of remote addresses, which can't be listed.
    """
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not isinstance(pattern, str) or not pattern.strip():
            raise UserError(
                f"{key} contains {pattern!r}: give an index.json, a folder of tars, or a pattern of them."
            )
        whole = pattern.startswith("pipe:") or (is_local(pattern) and os.path.exists(local(pattern)))  # noqa: PTH110 (false for impossible file names)
        for path in [pattern] if whole else _expanded(pattern, key):
            found += _named(path, key, indices)
    return found


def _expanded(pattern: str, key: str) -> list[str]:
    """The pattern with its braces expanded."""
    try:
        if _most(pattern) > MOST:
            raise UserError(
                f"{key}={shown(pattern)} expands to more than {MOST:,} names: write the numbers that exist, as in"
                " {000..999}."
            )
        return list(expand_urls(pattern))
    except (ValueError, AssertionError, RecursionError) as error:  # raised by webdataset and braceexpand
        raise UserError(
            f"{key}={shown(pattern)} is not a valid pattern: write braces in pairs, as in {{000..999}}, with numbers"
            " or names in them."
        ) from error


def _most(pattern: str) -> int:
    """An upper limit of the number of names, counted before any is made."""
    most = 1
    for first, last, step in RANGE.findall(pattern):
        most *= abs(int(last) - int(first)) // (int(step or 1) or 1) + 1
    for inner in re.findall(r"\{([^{}]*,[^{}]*)\}", pattern):
        most *= inner.count(",") + 1
    return most


def _named(path: str, key: str, indices: bool) -> list[str]:
    if path.startswith("pipe:"):
        return [path]
    if not is_local(path):
        if "*" in path:
            raise UserError(
                f"{key}={shown(path)} has a '*', but the files of a server can't be listed: write the numbers in"
                " braces, as in {000..999}, or give an index.json."
            )
        return [path]
    here = local(path)
    if Path(here).is_dir():
        return _of_folder(Path(here), key, indices)
    if not glob.has_magic(here) or Path(here).exists():
        return [path]
    return _matching(here, key, indices)


def _of_folder(folder: Path, key: str, indices: bool) -> list[str]:
    if indices and (folder / INDEX).is_file():
        return [str(folder / INDEX)]
    try:
        tars = sorted(str(file) for file in folder.iterdir() if _is_tar(file.name))
    except OSError as error:
        raise UserError(f"{key}={shown(str(folder))} can't be listed ({error.strerror}).") from error
    if not tars:
        raise UserError(
            f"{key}={shown(str(folder))} has no .tar and no {INDEX}: give a folder of tars, or a pattern of them."
        )
    return tars


def _matching(pattern: str, key: str, indices: bool) -> list[str]:
    try:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    except ValueError:  # an impossible file name
        matches = []
    if not matches:
        raise UserError(f"{key}={shown(pattern)} matches no file: check the folder and the pattern.")
    found: list[str] = []
    for match in matches:
        if Path(match).is_dir():
            found += _of_folder(Path(match), key, indices)
        elif match.endswith(".json") or _is_tar(Path(match).name):
            found.append(match)
        else:
            raise UserError(
                f"{key}={shown(pattern)} matches {shown(match)}, which is not a tar: write a pattern such as"
                " DIR/*.tar."
            )
    twice = [path for path in found if path.endswith(".json")] if not pattern.endswith(".json") else []
    if twice and len(found) > len(twice):
        raise UserError(
            f"{key}={shown(pattern)} matches {shown(twice[0])} and tars, which may have the same samples: write"
            " DIR/*.tar, or DIR for its index."
        )
    return found


def _is_tar(name: str) -> bool:
    """Not macOS's ._NAME.tar beside NAME.tar, which has no sample."""
    return name.endswith(TARS) and not name.startswith("._")
