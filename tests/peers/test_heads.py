"""The table of heads has every model of OpenAI's design that open_clip has a config of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.interop.heads import IMAGE_HEADS, TEXT_HEADS

pytestmark = pytest.mark.slow


def test_every_config_of_open_clip_has_its_heads_here(in_peers: Callable[..., dict[str, Any]]) -> None:
    rows = in_peers("heads.py")
    assert len(rows) > 40
    for name, row in rows.items():
        width, layers = row["image"]
        key = (width, tuple(layers) if isinstance(layers, list) else layers)
        assert IMAGE_HEADS[key] == row["image_heads"], name
        assert TEXT_HEADS[tuple(row["text"])] == row["text_heads"], name  # type: ignore[index]
    assert set(TEXT_HEADS) <= {tuple(row["text"]) for row in rows.values()}
