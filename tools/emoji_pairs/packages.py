"""The npm packages that the embedded pairs are drawn from, pinned by version and content."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError


@dataclass(frozen=True)
class Package:
    """One pinned package. `files` are those that are read; `sha256` is their `digest`."""

    package: str
    version: str
    files: tuple[str, ...]
    sha256: str
    title: str
    author: str
    licence: str
    source: str
    style: str | None = None  # None: it has names and tags, no drawings

    @property
    def tarball(self) -> str:
        """The file name that `npm pack` gives it."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


Contents = dict[str, Any]  # file name -> its parsed JSON


def pinned() -> list[Package]:
    """The packages of `packages.json`: first the one with names and tags, then one for each drawing style."""
    entries = json.loads(files(__package__).joinpath("packages.json").read_text(encoding="utf-8"))
    return [Package(**{**entry, "files": tuple(entry["files"])}) for entry in entries]


def digest(contents: dict[str, bytes]) -> str:
    """SHA-256 over names, lengths and bytes in the order given. How a package was compressed makes no difference."""
    total = hashlib.sha256()
    for name, data in contents.items():
        total.update(f"{name}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()


def load(pins: list[Package], folder: Path) -> Iterator[tuple[Package, Contents]]:
    """Each package and its parsed files. Raises UserError when one is missing or has other content than is pinned."""
    for pin in pins:
        contents = _read(pin, folder)
        if (found := digest(contents)) != pin.sha256:
            raise UserError(
                f"{pin.package} in {folder} has the content {found[:12]}… where {pin.version} is pinned as"
                f" {pin.sha256[:12]}…: remove it and fetch that version again."
            )
        yield pin, {name: json.loads(data) for name, data in contents.items()}


def _read(pin: Package, folder: Path) -> dict[str, bytes]:
    """From the tarball of `npm pack`, or from the unpacked package in `folder` or its node_modules."""
    try:
        if (tarball := folder / pin.tarball).is_file():
            with tarfile.open(tarball) as tar:
                return {name: _member(tar, f"package/{name}") for name in pin.files}
        for root in (folder / pin.package, folder / "node_modules" / pin.package):
            if root.is_dir():
                return {name: (root / name).read_bytes() for name in pin.files}
    except (OSError, KeyError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{pin.package} in {folder} can't be read ({error}): fetch it again.") from error
    raise UserError(
        f"path={folder} has no {pin.tarball} and no {pin.package}/: put the packages there, or leave out path=."
    )


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is not a file")
    return member.read()


def fetch(pins: list[Package]) -> Path:
    """Download the packages that the user's cache lacks, with `npm pack` -> the cache's folder.

    Raises UserError when npm is missing or fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diptych" / "npm"
    cache.mkdir(parents=True, exist_ok=True)
    for pin in pins:
        if (cache / pin.tarball).is_file():
            continue
        name = f"{pin.package}@{pin.version}"
        try:
            command = ["npm", "pack", name, "--silent", "--pack-destination", str(cache)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise UserError(
                "source=emoji fetches its packages with npm, which is missing here: install Node.js,"
                " or give path=DIR with the packages."
            ) from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"npm could not fetch {name} ({reason}): try again, or give path=DIR.") from error
    return cache
