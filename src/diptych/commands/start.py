"""Start a command: check Python and the packages, and keep the output safe, before anything else is imported.

Only the standard library is imported at the top, in a syntax that older Pythons understand: the messages are for
users without the packages.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def start(command: str) -> None:
    """Run a command (train, evaluate, …) with this process's arguments."""
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever types `python` may have an older one)
        _refuse(f"this is Python {sys.version.split()[0]}, and 3.11 is the oldest that works", command)
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # under LC_ALL=C file names would be undecoded bytes
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    try:
        from diptych.base.terminal import show
        from diptych.commands import cli
        from diptych.launch.output import keep_output
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "diptych":
            raise
        _refuse(f"{error.name} is not installed for {sys.executable}", command)
    keep_output()
    sys.excepthook = show
    cli.main(command)


def _refuse(what: str, command: str) -> None:
    root = Path(__file__).parents[3]
    there, script = root / ".venv" / "bin" / "python", Path(sys.argv[0])
    how = f". {_shown(there.with_name('activate'))}`, or put {_shown(there)} in the place of `python`"
    if not (root / "Makefile").is_file():  # installed as a package
        how = "pip install diptych` in this environment"
    elif not there.exists():
        how = f"make setup` in {root} first, then `{how}"
    print(f"diptych: {script.name or command}: {what}: type `{how}.", file=sys.stderr)
    sys.exit(2)


def _shown(path: Path) -> str:
    """Relative where that is shorter, as one would type it."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
