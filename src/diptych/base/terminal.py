"""What is printed: text that may come from anywhere, so that a terminal only shows it and no secret is in it.

A sample's key, a class name, a server's answer or a file's name can hold escape sequences, which would move the
cursor, retitle the window or hide what stands before them. Whatever we print goes through `say`.
"""

from __future__ import annotations

import re
import sys
import traceback
from types import TracebackType
from typing import TextIO

from diptych.base.masking import masked_text

# C0 but tab and line feed, DEL and C1; what changes the direction or ends a line unseen; lone surrogates.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    """`text` with control characters as `\\x1b` or `\\u202e`; tab and line feed stay."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def one_line(text: object) -> str:
    """As `visible`, a line feed too: for a name inside a table or a sentence."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def say(*parts: object, end: str = "\n", file: TextIO | None = None) -> None:
    """Print, and flush: control characters escaped, credentials in addresses hidden. file: stdout by default"""
    print(visible(masked_text(" ".join(map(str, parts)))), end=end, file=file or sys.stdout, flush=True)


def complain(text: object) -> None:
    """One sentence to stderr, as all of ours begin."""
    say(f"diptych: {text}", file=sys.stderr)


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of ours, for `sys.excepthook`: its traceback, under the same rule."""
    say("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)
