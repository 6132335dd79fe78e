"""Fixtures that the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from samples import COLOURS, picture, write_shards

torch.set_num_threads(1)  # suites run side by side; more threads than cores make all of them slow


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
