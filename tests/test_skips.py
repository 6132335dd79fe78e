"""The suite's own net: a skip that nobody allowed fails, and so does a test over nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

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


def ended(folder: Path, text: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (folder / "test_it.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(TESTS.parent / "pyproject.toml"),
        "test_it.py",
    ]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_what_nobody_allowed_fails(tmp_path: Path) -> None:
    text = "\n".join(
        f"{source.replace('test_x', f'test_{n}')}"
        for n, source in enumerate(SPOILED.values())
        if "importorskip" not in source and "parametrize" not in source
    )
    said = ended(tmp_path, text, "1")
    assert said.returncode == 1 and "2 failed, 2 errors" in said.stdout, said.stdout


@pytest.mark.parametrize("name", ["a package that is not there", "an empty glob"])
def test_a_file_that_collects_nothing_fails(name: str, tmp_path: Path) -> None:
    said = ended(tmp_path, SPOILED[name], "")
    assert said.returncode not in (0, 5), said.stdout


def test_what_a_machine_cannot_have_is_skipped(tmp_path: Path) -> None:
    text = "\n".join(
        source.replace("test_x", f"test_{n}") for n, source in enumerate([*RIGHT.values(), SPOILED["no peers in CI"]])
    )
    said = ended(tmp_path, text, "")
    assert said.returncode == 0 and "2 skipped, 1 xfailed" in said.stdout, said.stdout
