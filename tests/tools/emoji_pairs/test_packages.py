from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from emoji_pairs.packages import Package, digest, fetch, load, pinned

CONTENTS = {"icons.json": b'{"icons": {}}', "chars.json": b"{}"}
PIN = Package("@made/up", "1.2.3", tuple(CONTENTS), digest(CONTENTS), "", "", "", "", "up")


def unpacked(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def tarball(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_a_package_is_read_as_tarball_or_unpacked(tmp_path: Path) -> None:
    (tmp_path / "tar").mkdir()
    tarball(tmp_path / "tar" / "made-up-1.2.3.tgz", CONTENTS)
    unpacked(tmp_path / "plain" / "@made" / "up", CONTENTS)
    unpacked(tmp_path / "npm" / "node_modules" / "@made" / "up", CONTENTS)
    expected = {name: json.loads(data) for name, data in CONTENTS.items()}
    for folder in ("tar", "plain", "npm"):
        assert list(load([PIN], tmp_path / folder)) == [(PIN, expected)]


def test_other_content_than_pinned_is_refused(tmp_path: Path) -> None:
    unpacked(tmp_path / "@made" / "up", {**CONTENTS, "chars.json": b'{"1f42e": "cow"}'})
    with pytest.raises(UserError, match=r"@made/up .* is pinned"):
        list(load([PIN], tmp_path))


def test_the_hash_knows_files_and_their_borders() -> None:
    assert digest({"a": b"bc"}) != digest({"ab": b"c"})
    assert digest({"a": b"b", "c": b""}) != digest({"a": b"", "c": b"b"})


def test_a_missing_or_damaged_package_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made-up-1\.2\.3\.tgz"):
        list(load([PIN], tmp_path))
    unpacked(tmp_path / "@made" / "up", {"icons.json": b"{}"})
    with pytest.raises(UserError, match="can't be read"):
        list(load([PIN], tmp_path))
    (tmp_path / PIN.tarball).write_bytes(b"no archive")
    with pytest.raises(UserError, match="can't be read"):
        list(load([PIN], tmp_path))


def test_what_the_cache_holds_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no npm
    cache = tmp_path / "diptych" / "npm"
    cache.mkdir(parents=True)
    tarball(cache / PIN.tarball, CONTENTS)
    assert fetch([PIN]) == cache
    with pytest.raises(UserError, match="npm, which is missing"):
        fetch([PIN, replace(PIN, version="2.0.0")])


def test_npms_own_reason_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error 404 Not Found' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"@made/up@1\.2\.3 \(npm error 404 Not Found\)"):
        fetch([PIN])


def test_pins_are_whole_and_licensed() -> None:
    names, *styles = pinned()
    assert names.style is None
    assert len({pin.style for pin in styles}) == len(styles) == 11
    notice = (ROOT / "data" / "NOTICE.md").read_text()
    for pin in (names, *styles):
        assert len(pin.sha256) == 64
        line = next(line for line in notice.splitlines() if f"{pin.package} {pin.version}" in line)
        assert pin.licence in line
        assert pin.source in line
