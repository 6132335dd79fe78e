"""The rooms of src/diptych: which module stands in which, and which rooms a room may import from.

A room is one idea. A new module needs a place here before it may be imported, a new arrow a line; test_structure.py
refuses what is not written here, and what is written here and not used. The names are those of the folders that the
modules move to.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from found import found

SRC = Path(__file__).parents[1] / "src"
FILES = found(SRC / "diptych", "**/*.py")

# Room -> its modules, below `diptych`; a name that ends in a dot stands for all of that package.
ROOMS: dict[str, tuple[str, ...]] = {
    "base": (
        "allocator", "atomic", "batch", "data.seeding", "doubled", "errors", "masking", "moved", "nearby", "paths",
        "plain", "plural", "quantities", "quoting", "regular", "templates", "terminal", "textfile",
    ),
    "launch": ("data.children", "distributed", "output", "sharing", "slurm", "world"),
    "towers": ("towers.",),
    "loss": ("loss.",),
    "building": ("building", "checking", "targets"),
    "evaluation": ("evaluation.",),
    "interop": ("interop.",),
    "data/text": ("data.bpe", "data.cleaning", "data.tokenizer", "seen_words"),
    "data/io": ("data.files", "data.reading."),
    "data/pixels": ("data.augment", "data.decode", "data.image", "data.jpeg", "data.resize"),
    "data/stream": (
        "data.captions", "data.handover", "data.headers", "data.identity", "data.index", "data.keys", "data.order",
        "data.pairs", "data.patterns", "data.seen", "data.shards", "data.steps", "data.stream", "data.tar",
        "data.walk",
    ),
    "data/sets": (
        "data.benchmarks.", "data.class_folders", "data.eval_identity", "data.eval_samples", "data.evalset",
        "data.imagenet", "data.karpathy", "data.labelled", "data.listing", "data.opening", "data.pair_set",
        "data.parquet_set", "data.synonyms", "data.validation",
    ),
    "data": ("data", "data.datamodule"),
    "packing": ("data.learn_vocabulary", "data.ngrams", "data.sources."),
    "model": ("cost", "encode", "loading", "pretrained", "recalling", "training.patches"),
    "training": ("training.",),
    "plan": ("plan.",),
    "report": ("study.",),
    "tasks": ("assess", "comparing", "fewshot", "inspecting", "probing", "prompting"),
    "commands": (
        "boundary", "claim", "config", "creating", "experiment", "fitting", "overrides", "prompted", "ranks",
        "recovery", "resuming", "run", "start", "stored", "sweeps", "vocabulary",
    ),
    "public": ("",),
}  # fmt: skip

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
    "data": {"data/io", "data/pixels", "data/stream", "data/sets"},
    "packing": {"launch", "data/text", "data/io", "data/pixels", "data/stream", "data/sets"},
    "model": {"launch", "towers", "building", "evaluation", "interop", "data/text", "data/pixels", "data/sets"},
    "training": {
        "launch", "towers", "loss", "evaluation", "interop", "data/text", "data/stream", "data/sets", "model",
    },
    "plan": {"towers", "loss", "model", "training"},
    "report": {"evaluation"},
    "tasks": {"launch", "towers", "evaluation", "data/text", "data/sets", "model", "report"},
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
# Arrows that run against the others, each with its reason.
AGAINST = {
    ("data/text", "packing"): "`python -m diptych.data.tokenizer train` is a command in the tokenizer's module",
}


def modules() -> dict[str, Path]:
    """`data.order` -> its file; "" is the package itself."""
    found = {}
    for file in FILES:
        parts = file.relative_to(SRC / "diptych").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def rooms_of(module: str) -> list[str]:
    """The longest name that fits it decides: `training.patches` before `training.`."""
    fits = [
        (len(name), room)
        for room, names in ROOMS.items()
        for name in names
        if name == module or (name.endswith(".") and f"{module}.".startswith(name))
    ]
    return [room for length, room in fits if length == max(fits)[0]]


def names_in(file: Path) -> set[str]:
    """All that a file imports, wherever in it: `from diptych.data import order` is diptych.data.order. What is
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
    return names


def arrows() -> dict[str, dict[str, set[str]]]:
    """Room -> room -> the imports between the two, as `data.order -> data.index`."""
    known = modules()
    between: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, file in known.items():
        for name in names_in(file):
            if name.partition(".")[0] != "diptych":
                continue
            other = name.removeprefix("diptych").removeprefix(".")
            (here,), (there,) = rooms_of(module), rooms_of(other if other in known else other.rpartition(".")[0])
            if here != there:
                between[here][there].add(f"{module} -> {other}")
    return between
