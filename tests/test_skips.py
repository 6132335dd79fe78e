"""The suite's own net: a skip that nobody allowed fails, and so does a test over nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.base.files import ROOT

TESTS = ROOT / "tests"

PEERS = "`make peers` can't make the peers' environment here: no network"
SPOILED = {
    "a test that skips": "import pytest\ndef test_x(): pytest.skip('not today')",
    "a mark that skips": "import pytest\n@pytest.mark.skip(reason='later')\ndef test_x(): pass",
    "a package that is not there": "import pytest\npytest.importorskip('no_such_package')\ndef test_x(): pass",
    "a fixture that skips": "import pytest\n@pytest.fixture\ndef f(): pytest.skip('x')\ndef test_x(f): pass",
    "an empty glob": "import pytest\n@pytest.mark.parametrize('f', [])\ndef test_x(f): pass",
    "no peers in CI": f"import pytest\ndef test_x(): pytest.skip({PEERS!r})",
}
RIGHT = {
    "no GPU": "import pytest\ndef test_x(): pytest.skip('this machine has a GPU')",
    "what is expected to fail": "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_x(): assert False",
}


def ended(folder: Path, texts: list[str], ci: str) -> str:
    """What pytest says at the end of a suite of these files under our conftest."""
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    for number, text in enumerate(texts):
        (folder / f"test_{number}.py").write_text(text)
    files = [f"test_{number}.py" for number in range(len(texts))]
    settings = [
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "-c",
        str(TESTS.parent / "pyproject.toml"),
    ]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS / "support")])}
    command = [sys.executable, "-m", "pytest", "-q", *settings, *files]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_what_nobody_allowed_fails(tmp_path: Path) -> None:
    """Two of them fail in their test, two before it, two while the file is collected."""
    said = ended(tmp_path, list(SPOILED.values()), "1")
    assert "2 failed, 4 errors" in said and "passed" not in said, said


def test_what_a_machine_cannot_have_is_skipped(tmp_path: Path) -> None:
    said = ended(tmp_path, [*RIGHT.values(), SPOILED["no peers in CI"]], "")
    assert "2 skipped, 1 xfailed" in said and "failed," not in said, said
