"""Fixtures that the tests share."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from samples import COLOURS, picture, write_shards

torch.set_num_threads(1)  # suites run side by side; more threads than cores make all of them slow


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist, whoever needs the peers' environment runs in one process: two would make it at the same time."""
    for item in items:
        if "peers_python" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("peers"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """xdist tells a group by the end of a test's id. A pytest in which that doesn't work spreads groups silently."""
    if session.config.getoption("loadgroup", False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
                raise pytest.UsageError(f"{item.nodeid} is in a group, and this pytest and xdist don't know it.")


# Why a test may be skipped, by how its reason begins: what a machine can't have, not what someone forgot to install.
MAY_SKIP = {
    "this machine has a GPU": "shows what is said without one",
    "there is a GPU": "the same",
    "timm is installed here": "shows what is said without it",
    "no checkout of git": "a source archive has no list of ignored files",
    "network namespaces can't be made here": "needs a privilege of the kernel",
    "mount namespaces can't be made here": "the same",
    "no file system can be mounted here": "the same",
    "the C library has no mallopt": "musl and macOS have none",
    "folders there have no mode": "Windows",
}
MAY_SKIP_OUTSIDE_CI = {"`make peers` can't make the peers' environment here": "needs the network once"}


def unexpected(reason: str) -> bool:
    """Whether a skip for this reason is a failure."""
    allowed = [*MAY_SKIP, *(() if os.environ.get("CI") else MAY_SKIP_OUTSIDE_CI)]
    return not reason.removeprefix("Skipped: ").startswith(tuple(allowed))


def _failed_if_unexpected(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if unexpected(reason):
            report.outcome = "failed"
            report.longrepr = (
                f"{reason!r} is no reason to skip, see MAY_SKIP in tests/conftest.py: what is skipped proves nothing."
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _failed_if_unexpected(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole file is skipped while it is collected."""
    report = yield
    _failed_if_unexpected(report)
    return report


@pytest.fixture(scope="session")
def peers_python() -> Path:
    """The Python of .venv-peers, which is made where it is missing."""
    root = Path(__file__).parents[1]
    command = ["make", "--no-print-directory", "peers", f"PYTHON={sys.executable}"]
    made = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if made.returncode:
        last = (made.stderr.strip() or made.stdout.strip()).splitlines()[-1:]
        pytest.skip(f"`make peers` can't make the peers' environment here: {' '.join(last)}")
    return root / ".venv-peers" / "bin" / "python"


@pytest.fixture
def in_peers(peers_python: Path) -> Callable[..., dict[str, Any]]:
    """Runs a script of tests/peers in the peers' environment; what it prints last is JSON."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])

    def run(script: str, *arguments: str) -> dict[str, Any]:
        ended = subprocess.run(
            [str(peers_python), str(root / "tests/peers" / script), *arguments],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])

    return run


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """80 pairs in four unequal shards."""
    return write_shards(tmp_path / "shards", [32, 8, 24, 16])


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Four classes of three pictures, as folders."""
    for number in range(12):
        folder = tmp_path / "classes" / list(COLOURS)[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(picture(number))
    return tmp_path / "classes"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs an entry point as the shell would, in this process: `cli("train", "model=rn_tiny", …)`."""
    from diptych.commands import cli as entry_points

    monkeypatch.chdir(tmp_path)

    def command(entry: str, *arguments: str) -> Ended:
        monkeypatch.setenv("DIPTYCH_STAMP", f"run{next(_STAMPS)}")
        monkeypatch.setattr(sys, "argv", [f"{entry}.py", *arguments])
        code = 0
        try:
            entry_points.main(entry)
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return command


_STAMPS = itertools.count()
