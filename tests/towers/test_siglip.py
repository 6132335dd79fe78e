"""The ViT's options beside their peers: SigLIP's image tower of transformers and of timm, registers of timm.

Run in the peers' environment, another Python: .venv-peers, or what DIPTYCH_PEERS names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])


@pytest.mark.slow
def test_siglips_tower_and_registers_equal_their_peers(peers_python: Path) -> None:
    """The same weights, the same features; one wrong GELU would show."""
    ended = subprocess.run(
        [str(peers_python), str(ROOT / "tests/peers/siglip.py")],
        env={
            **os.environ,
            "PYTHONPATH": PATH,
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found.pop("transformers, wrong GELU") > 1e-6
    assert found.keys() == {"transformers", "timm", "registers of timm"}
    assert max(found.values()) < 1e-12, found
