"""The terminal: what we print on it, and what we tell users to type there.

Printed text may come from anywhere: a sample's key, a class name, a server's answer or a file's name can hold escape
sequences, which would move the cursor, retitle the window or hide the text before them. Everything that we print goes
through `say`, which shows them instead, and hides credentials.

Every message that tells the user what to type takes it from `to_type`, `shell` or `hydra`, so that it works when it
is pasted.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from diptych.base.masking import masked_argument, masked_text

# C0 except tab and line feed, DEL and C1; what changes the direction or ends a line invisibly; lone surrogates.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_UNQUOTED = re.compile(r"[\w/.+%@*?-]+( [\w/.+%@*?-]+)*", re.ASCII)  # Hydra reads this text as text,
_NOT_TEXT = re.compile(r"true|false|null|[+-]?(inf|nan|\.?\d[\d_.]*(e[+-]?\d+)?)", re.IGNORECASE)  # except for these
_IN_DOUBLE_QUOTES = re.compile(r'["$`!]|\\(?:\\|$)')  # what a shell interprets even there
_SAFE = re.compile(r"[\w/.+%@:=,~-]+", re.ASCII)  # what no shell interprets

SUGGESTIONS = 3
SIMILAR = 0.7  # ratio from which two names count as similar
CONFIGS = ("*/config.yaml", "*/*/config.yaml", "*/*/*/config.yaml")  # below runs/: of runs, and of a sweep's jobs


def visible(text: object) -> str:
    """`text` with control characters as `\\x1b` or `\\u202e`; tab and line feed stay."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def one_line(text: object) -> str:
    """Like `visible`, with tabs and line feeds escaped too: for a name in a table or a sentence."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`1 pair`, `2,000 pairs`. things: the plural, where it isn't `thing` with an s"""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def say(*parts: object, end: str = "\n", file: TextIO | None = None) -> None:
    """Print and flush, with control characters escaped and credentials hidden. file: stdout by default"""
    print(visible(masked_text(" ".join(map(str, parts)))), end=end, file=file or sys.stdout, flush=True)


def complain(text: object) -> None:
    """Print a sentence to stderr, after the name of the program."""
    say(f"diptych: {text}", file=sys.stderr)


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback with `say`, for `sys.excepthook`."""
    say("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)


def to_type(key: str, value: Any) -> str:
    """`key=value` as one types it in a shell, so that Hydra reads this value: text, a number, null, or a list or
    mapping of them."""
    return shell(f"{key}={hydra(value)}")


def resume_command(run_dir: Path) -> str:
    """What resumes a run, as one types it in a shell."""
    return f"python src/train.py {to_type('resume', run_dir)}"


def shell(argument: str) -> str:
    """An argument as one types it in a shell, with the quotes that are easiest to read, and without secrets: among
    quotes they could not be found any more."""
    argument = masked_argument(argument)
    body = argument[1:] if argument.startswith("~") else argument  # ~key deletes a key; no user has this name
    if _SAFE.fullmatch(body) and "=~" not in body:
        return argument
    if "'" not in argument:
        return f"'{argument}'"
    return shlex.quote(argument) if _IN_DOUBLE_QUOTES.search(argument) else f'"{argument}"'


def hydra(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{hydra(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra, value))}]"
    text = str(value)
    if _UNQUOTED.fullmatch(text) and not _NOT_TEXT.fullmatch(text):
        return text
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", text)  # a backslash before a quote would escape it
    return "'" + doubled.replace("'", "\\'") + "'"


def meant(key: str, path: Path) -> str:
    """The end of a message about a missing run: "did you mean KEY=… or KEY=…?" with the runs in runs/ that `path` is
    similar to or contains, newest first. Without any, what to give instead."""
    near = list(_similar_runs(path))[:SUGGESTIONS]
    if not near:
        return "give a run's folder." if key == "resume" else "give a run's folder or a checkpoint file."
    return f"did you mean {' or '.join(to_type(key, run) for run in near)}?"


def _similar_runs(path: Path) -> Iterator[Path]:
    files = [file for pattern in CONFIGS for file in Path("runs").glob(pattern)]
    runs = sorted((file.parent for file in files), key=os.path.getmtime, reverse=True)
    wanted = Path(os.path.relpath(path)).parts
    scores = {run: max(_similarity(wanted, run), run.is_relative_to(os.path.relpath(path))) for run in runs}
    yield from (run for run in sorted(runs, key=lambda run: -scores[run]) if scores[run] >= SIMILAR)


def _similarity(wanted: tuple[str, ...], run: Path) -> float:
    """The higher of two ratios: of both paths, and of the path's last name with one of the run's names."""
    pairs = [("/".join(wanted), run.as_posix()), *((wanted[-1], name) for name in run.parts[1:])]
    return max(SequenceMatcher(None, one.lower(), other.lower()).ratio() for one, other in pairs)
