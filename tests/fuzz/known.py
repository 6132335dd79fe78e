"""Kinds of findings that are open: (area, oracle, kind) -> why. A kind that no longer occurs fails the long run.

To be emptied. A new kind goes here only where it is repaired elsewhere.
"""

from __future__ import annotations

KNOWN: dict[tuple[str, str, str], str] = {}
