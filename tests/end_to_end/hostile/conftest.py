"""A trap for what comes from elsewhere: a secret, a module that says when it is imported, and an audit hook."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_config import SECRET

STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect")

watched: list[str] = []

watching: list[str] = []  # paths whose opening is seen


def watch(event: str, arguments: tuple) -> None:
    if not watching:
        return
    if event in STARTS:
        watched.append(f"{event} {arguments}")
    elif (event == "open" and str(arguments[0]) in watching) or (
        event == "import" and arguments[0].startswith("sprung")
    ):
        watched.append(f"{event} {arguments[0]}")


sys.addaudithook(watch)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A secret in a file and in the environment, a module that says when it is imported; nothing may touch them."""
    (tmp_path / "secret.txt").write_text(f"{SECRET} x\n")
    (tmp_path / "sprung.py").write_text(f"open({str(tmp_path / 'SPRUNG')!r}, 'w').close()\ndef call(**_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    watched.clear()
    watching.append(str(tmp_path / "secret.txt"))
    (tmp_path / "secret.txt").read_bytes()
    assert watched, "the hook that looks for opened files sees none"
    watched.clear()
    yield tmp_path
    watching.clear()
    assert watched == [] and not (tmp_path / "SPRUNG").exists()
