from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.table import Peer


@pytest.fixture(scope="module")
def peer(peers_python: Path) -> Iterator[Peer]:
    """The peers' process, to be asked."""
    peer = Peer()
    yield peer
    peer.close()
