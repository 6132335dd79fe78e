"""The arrows of the house point one way."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest
from rooms import ARROWS, FILES, LIBRARIES, SRC, arrows, modules, names_in, picture, rooms, table


def test_every_module_stands_in_a_room() -> None:
    """None on the floor but the package's own file; a folder is a room that rooms.py names."""
    assert len(rooms()) > 150
    loose = [module for module, room in rooms().items() if room == "public" and module]
    assert not loose, f"{loose}: move it into a room"
    unknown = {room: module for module, room in rooms().items() if room not in ARROWS}
    assert not unknown, f"{unknown}: write the room into rooms.py, with what it may import from"
    assert set(rooms().values()) == ARROWS.keys()


def test_arrows_between_rooms_are_those_that_are_written_down() -> None:
    found = arrows()
    for room, allowed in ARROWS.items():
        for other, imports in found[room].items():
            if other != "base":
                assert other in allowed, f"{room} may not import from {other}: {sorted(imports)}"
        unused = allowed - found[room].keys()
        assert not unused, f"{room} imports nothing from {unused}: take it out of ARROWS"


def test_arrows_make_no_circle() -> None:
    order = list(
        graphlib.TopologicalSorter({room: {*to, "base"} - {room} for room, to in ARROWS.items()}).static_order()
    )
    assert order[0] == "base" and order[-1] == "public"


def test_the_page_for_contributors_shows_these_rooms() -> None:
    page = (SRC.parent / "docs/architecture.md").read_text(encoding="utf-8")
    assert table() in page and picture() in page, "put there what `python tests/support/rooms.py` prints"


def test_libraries_stay_in_their_rooms() -> None:
    for library, allowed in LIBRARIES.items():
        users = {
            rooms()[module]
            for module, file in modules().items()
            if any(name.partition(".")[0] == library for name in names_in(file))
        }
        assert users == allowed, f"{library} is imported by {users}"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from diptych import loss", "diptych.loss"),
        ("from diptych.loss import siglip as s", "diptych.loss.siglip"),
        ("def f():\n    import diptych.training.step", "diptych.training.step"),
        ("import hydra.errors", "hydra.errors"),
    ],
)
def test_an_import_is_seen_however_it_is_written(line: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(line, encoding="utf-8")
    assert name in names_in(tmp_path / "x.py")
    (tmp_path / "types.py").write_text(f"if TYPE_CHECKING:\n    {line.splitlines()[-1].strip()}", encoding="utf-8")
    assert not names_in(tmp_path / "types.py")


# Where Python's idea of a line will do: what programs and errors say, and bytes, which it splits at newlines alone.
SPLIT_LINES = {
    "interop/files.py",
    "launch/world.py",
    "data/io/files.py",
    "training/loggers.py",
}


def test_files_are_utf8_and_lines_end_at_newlines() -> None:
    """The locale must not decide what a file says, nor `splitlines`, which splits at U+2028 too, within names."""
    seen = 0
    for file in FILES:
        name = str(file.relative_to(SRC / "diptych"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called, where = node.func.attr, f"{name}, line {node.lineno}"
            if called in ("read_text", "write_text"):
                seen += 1
                given = [word.arg for word in node.keywords]
                given += [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                assert {"encoding", "utf-8"} & set(given), f"{where}: say encoding="
            assert called != "splitlines" or name in SPLIT_LINES, f"{where}: take base.textfile.split_lines"
    assert seen > 10


def test_importing_diptych_costs_nothing() -> None:
    """No torch, wandb or matplotlib before they are used, so that --help is quick."""
    import subprocess
    import sys

    code = "import sys, diptych.commands.cli, diptych.commands.train\n"
    code += "print(sorted({'torch', 'wandb', 'matplotlib', 'lightning'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC)
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr
