"""The ViT's options beside their peers: SigLIP's image tower of transformers and of timm, registers of timm.

It runs in the peers' environment, another Python: .venv-peers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.slow
def test_siglips_tower_and_registers_equal_their_peers(in_peers: Callable[[str], dict[str, Any]]) -> None:
    """The same weights, the same features; one wrong GELU would show."""
    found = in_peers("siglip.py")
    assert found.pop("transformers, wrong GELU") > 1e-6
    assert found.keys() == {"transformers", "timm", "registers of timm"}
    assert all(value < 1e-12 for value in found.values()), found
