"""One rule for a sample's key that comes again in one tar, where its files are not neighbours."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum


class Again(Enum):
    """APART: with other files, which are the rest of one sample; ANOTHER: with files it had, so another sample of
    that key, as in tars that were joined"""

    APART = "apart"
    ANOTHER = "another"


class Seen:
    """The keys of the samples that have ended, each with all the extensions it came with."""

    def __init__(self) -> None:
        self._extensions: dict[str, set[str]] = {}

    def end(self, key: str, extensions: Collection[str]) -> Again | None:
        """A sample has ended -> how its key came again; None where it is new."""
        before = self._extensions.setdefault(key, set())
        again = None if not before else Again.APART if before.isdisjoint(extensions) else Again.ANOTHER
        before.update(extensions)
        return again

    def of(self, key: str) -> Collection[str]:
        """The extensions that a key came with, none where it hasn't."""
        return self._extensions.get(key, ())
