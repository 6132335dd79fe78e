"""The paper's nine models beside the real peers, at full size; `make peers-table` prints what is held here."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers.table import MODELS, Peer, compare

pytestmark = pytest.mark.slow

WITHIN = 1e-5  # of the largest magnitude, in float32; what was seen is 4e-6


@pytest.mark.parametrize("name", MODELS)
def test_features_logits_and_round_trips_are_the_peers(name: str, peer: Peer, tmp_path: Path) -> None:
    rows = compare(name, peer, tmp_path)
    for file in tmp_path.iterdir():  # up to 2.5 GB each, and pytest keeps its folders
        file.unlink()
    assert [row.peer.split()[0] for row in rows] == ["open_clip", "transformers"][: 2 if "vit" in name else 1]
    for row in rows:
        assert row.parameters == row.peer_parameters
        assert row.differences.keys() == {"image", "text", "logits"} | ({"statistics"} if "rn" in name else set())
        assert all(value <= WITHIN for value in row.differences.values()), row
        assert row.contrast > 100 * WITHIN
    assert rows[0].strict and rows[0].same == rows[0].tensors > 300
