"""Every entry of a folder is a picture, another file, or left out by a reason that names it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.base.files import ROOT
from diptych.data.sets.folders import Listing, list_pictures, no_picture
from diptych.data.stream.pairs import IMAGES


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def seen(found: Listing) -> int:
    return len(found.pictures) + len(found.others) + sum(map(len, found.left_out.values()))


def test_extensions_in_any_case_are_pictures(tmp_path: Path) -> None:
    names = [f"{number}{extension}" for number, extension in enumerate(IMAGES)]
    names += [f"{name}".upper() for name in names]
    assert {".jfif", ".jpe", ".avif"} <= set(IMAGES)
    touch(tmp_path, *names, "b/c.TXT", "d.heic", "README")
    found = list_pictures(tmp_path)
    assert found.pictures == sorted(names) and found.others == ["README", "b/c.TXT", "d.heic"] and not found.left_out
    assert no_picture("x/D.HEIC") == "a picture of a kind that isn't read"
    assert no_picture("README") == "neither a picture nor a caption"


def test_what_a_system_leaves_is_named_and_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", "b/._c.png", "__MACOSX/b/d.png", ".DS_Store", "b/Thumbs.db", ".git/e.png")
    found = list_pictures(tmp_path)
    assert found.pictures == ["a.jpg"] and not found.others
    assert found.left_out == {
        "macOS's copies (__MACOSX, ._NAME)": ["._a.jpg", "__MACOSX", "b/._c.png"],
        "a system's own file (.DS_Store, Thumbs.db)": [".DS_Store", "b/Thumbs.db"],
        "hidden: its name begins with a dot": [".git"],
    }


def test_links_are_followed_once_and_never_in_a_loop(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    touch(root, "z/a.jpg")
    touch(other, "deep/b.jpg", "c.jpg")
    (root / "a").symlink_to(root / "z")  # sorts before the folder itself, which keeps its name
    (root / "more").symlink_to(other)
    (root / "again").symlink_to(other)
    (root / "d.jpg").symlink_to(other / "c.jpg")
    (root / "z/up").symlink_to("..")
    (other / "deep/home").symlink_to(tmp_path)
    (root / "gone.jpg").symlink_to("nowhere")
    (root / "round").symlink_to("round")
    found = list_pictures(root)
    assert found.pictures == ["again/c.jpg", "again/deep/b.jpg", "d.jpg", "z/a.jpg"]
    assert found.left_out == {
        "a folder that is listed already, reached by a link": [
            *("a", "again/deep/home/other", "again/deep/home/root", "more", "z/up"),
        ],
        "a link that leads nowhere": ["gone.jpg", "round"],
    }
    assert found.outside == ["again", "again/deep/home", "d.jpg", "more"]


def test_pipes_sockets_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.png"))
        found = list_pictures(tmp_path)
    assert not found.pictures and not found.others
    names = ["pipe.png", "pipe.txt", "socket.png", "zero.png"]
    assert found.left_out == {"neither a file nor a folder": names}


def test_names_that_are_no_utf8_are_listed(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):  # noqa: PTH123 (bytes, which Path does not take)
        assert list_pictures(tmp_path).pictures == ["caf\udce9.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders there have no mode")
def test_a_folder_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    """In a process that gave up being root, who reads everything."""
    touch(tmp_path, "a/b.jpg", "c/d.jpg")
    (tmp_path / "a").chmod(0)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; from diptych.data.sets.folders import list_pictures; os.chdir(sys.argv[1]);"
        "os.getuid() or os.setuid(65534); found = list_pictures('.'); print(found.pictures, found.left_out)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, str(tmp_path)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (tmp_path / "a").chmod(0o755)
    assert printed == "['c/d.jpg'] {\"a folder that can't be read\": ['a']}\n"
