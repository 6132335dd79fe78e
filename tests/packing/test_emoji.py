"""`source=emoji` runs the tool beside the library, and says what to do where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.packing import emoji


def test_the_command_runs_the_tool_of_this_checkout(tmp_path: Path) -> None:
    """In a process of its own and from another folder, up to the first package that is missing."""
    command = [sys.executable, str(ROOT / "src/pack.py"), "source=emoji", "path=.", "out=built"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "path=. has no emojibase-data-" in ended.stderr, ended.stderr


def test_an_installed_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(emoji, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"tools/emoji_pairs, which an installed package does not contain: clone"):
        emoji.pack(None, "out")
