from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.table import Peer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def peers_python() -> Path:
    """The Python of .venv-peers, which is made where it is missing."""
    command = ["make", "--no-print-directory", "peers", f"PYTHON={sys.executable}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        last = (made.stderr.strip() or made.stdout.strip()).splitlines()[-1:]
        pytest.skip(f"`make peers` can't make the peers' environment here: {' '.join(last)}")
    return ROOT / ".venv-peers" / "bin" / "python"


@pytest.fixture(scope="module")
def peer(peers_python: Path) -> Iterator[Peer]:
    """The peers' process, to be asked."""
    peer = Peer()
    yield peer
    peer.close()
