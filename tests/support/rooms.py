"""The rooms of src/diptych: each folder is one, and this is which of them a room may import from.

A room is one idea. A new folder needs a line here, a new arrow too; test_structure.py refuses what is not written
here, and what is written here and not used.
"""

from __future__ import annotations

import ast
import graphlib
from collections import defaultdict
from functools import cache
from pathlib import Path

from found import found

SRC = Path(__file__).parents[2] / "src"
FILES = found(SRC / "diptych", "**/*.py")

# Room -> the rooms that it imports from; all may import from `base`.
ARROWS: dict[str, set[str]] = {
    "base": set(),
    "launch": set(),
    "towers": set(),
    "loss": {"launch"},
    "building": {"data/text"},
    "evaluation": {"launch"},
    "interop": {"towers", "building", "data/text"},
    "data/text": set(),
    "data/io": set(),
    "data/pixels": set(),
    "data/stream": {"launch", "data/text", "data/io", "data/pixels"},
    "data/sets": {"data/io", "data/pixels", "data/stream"},
    "data": {"data/text", "data/io", "data/pixels", "data/stream", "data/sets"},
    "packing": {"launch", "data/io", "data/pixels", "data/stream", "data/sets"},
    "model": {"launch", "towers", "building", "evaluation", "interop", "data/text", "data/pixels", "data/sets"},
    "training": {
        "launch", "towers", "loss", "evaluation", "interop", "data/text", "data/stream", "data/sets", "model",
    },
    "plan": {"towers", "loss", "model", "training"},
    "report": {"evaluation"},
    "tasks": {"launch", "towers", "evaluation", "data/sets", "model", "report"},
    "commands": {
        "launch", "towers", "building", "evaluation", "interop", "data/text", "data/io", "data/stream", "data/sets",
        "data", "model", "training", "plan", "report", "tasks",
    },
    "public": {"commands"},
}  # fmt: skip
# Rooms that may import these libraries; all others do without.
LIBRARIES = {
    "hydra": {"commands"},
    "omegaconf": {"commands"},
    "lightning": {"commands", "training", "data"},
    "wandb": {"training"},
}


def modules() -> dict[str, Path]:
    """`loss.siglip` -> its file; "" is the package itself."""
    found = {}
    for file in FILES:
        parts = file.relative_to(SRC / "diptych").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room_of(file: Path) -> str:
    """The folder it stands in; `public` is the package's own file. A folder inside a room of training's or the sets'
    is a part of that room."""
    folder = "/".join(file.relative_to(SRC / "diptych").parts[:-1])
    if not folder:
        return "public"
    fits = [room for room in ARROWS if folder == room or folder.startswith(f"{room}/")]
    return max(fits, key=len, default=folder)


@cache
def names_in(file: Path) -> frozenset[str]:
    """All that a file imports, wherever in it: `from diptych.loss import siglip` is diptych.loss.siglip. What is
    imported for types alone is no arrow."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def rooms() -> dict[str, str]:
    """Module -> its room."""
    return {module: room_of(file) for module, file in modules().items()}


def arrows() -> dict[str, dict[str, set[str]]]:
    """Room -> room -> the imports between the two, as `data.stream.order -> data.stream.index`."""
    known = rooms()
    between: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, file in modules().items():
        for name in names_in(file):
            if name.partition(".")[0] != "diptych":
                continue
            other = name.removeprefix("diptych").removeprefix(".")
            other = other if other in known else other.rpartition(".")[0]
            if known[module] != known[other]:
                between[known[module]][known[other]].add(f"{module} -> {other}")
    return between


def picture() -> str:
    """The rooms as a Mermaid graph: arrows that follow from others, and those to `base`, are left out."""
    reach: dict[str, set[str]] = {}
    for room in graphlib.TopologicalSorter(ARROWS).static_order():
        reach[room] = set().union(*({other, *reach[other]} for other in ARROWS[room]))
    lines = ["```mermaid", "graph TD"]
    for room, others in ARROWS.items():
        indirect = set().union(*(reach[other] for other in others))
        lines += [f"  {_node(room)} --> {_node(other)}" for other in sorted(others - indirect)]
    return "\n".join([*lines, "```"])


def _node(room: str) -> str:
    return f'{room.replace("/", "_")}["{room}"]'


def table() -> str:
    """What each room is, in the words of its own docstring."""
    lines = ["| room | what it is |", "|---|---|"]
    for room in ARROWS:
        doc = ast.get_docstring(
            ast.parse(
                (SRC / "diptych" / ("" if room == "public" else room) / "__init__.py").read_text(encoding="utf-8")
            )
        )
        said = (doc or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"| `{room}` | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"{table()}\n\n{picture()}")
