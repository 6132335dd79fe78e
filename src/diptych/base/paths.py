"""Where this project's own files are: of a checkout, or of an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parents[1] if (PACKAGE.parents[1] / "conf").is_dir() else PACKAGE
