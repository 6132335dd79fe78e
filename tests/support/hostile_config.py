"""A config with a harmful value at one of its keys."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

TINY = (
    "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=cpu", "trainer.precision=32-true",
    "logger=none", "data=webdataset", "data.workers=0", "data.batch_size=16", "trainer.max_steps=2", "data.streams=2",
    "data.validation=0",
)  # fmt: skip

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


def spoiled(config: Any, place: str, value: Any, secret: Path) -> Any:
    config = copy.deepcopy(config)
    if isinstance(value, str):
        value = value.replace("SECRET_FILE", str(secret))
    node = config
    *parents, last = place.split(".")
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
    node[last] = value
    return config
