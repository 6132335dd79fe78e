"""The embedded pairs. tools/emoji_pairs draws them: it stands beside the library, in a checkout only."""

from __future__ import annotations

import sys

from diptych.base.errors import UserError
from diptych.base.files import ROOT


def pack(path: str | None, out: str) -> None:
    """Run `emoji_pairs.build.pack` of this checkout. Raises UserError where the library is installed without it."""
    tools = ROOT / "tools"
    if not (tools / "emoji_pairs").is_dir():
        raise UserError(
            f"source=emoji needs {tools}/emoji_pairs, which an installed package does not contain: clone the"
            " repository and run src/pack.py there."
        )
    if str(tools) not in sys.path:
        sys.path.insert(0, str(tools))
    from emoji_pairs import build

    build.pack(path, out)
