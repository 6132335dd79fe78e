from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a checkpoint is written; its parent is for what is made of it."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"
