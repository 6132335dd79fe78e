"""What `data.evaluate=PATH` means: which evaluation set, or sets, a folder or shards are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diptych.base.errors import UserError
from diptych.data.io.address import is_local
from diptych.data.io.files import Files
from diptych.data.sets.benchmark_set import MARKS, benchmark_sets
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.folders import folder_set
from diptych.data.sets.pair_set import pair_set

SHARDS = (".tar", ".json", ".tar.gz", ".tgz")
KINDS = (
    "a folder with a sub-folder of pictures a class, a set in CLIP_benchmark's layout (also with captions), a folder"
    " of such sets, or shards of pairs (tars or their index.json)"
)


def check_path(path: str, key: str = "data.evaluate") -> None:
    """Raises UserError, before anything is read, for a path that can't be a set."""
    if path.endswith(SHARDS):
        return  # a pattern or an address: who opens it says what is wrong
    if not is_local(path) or not Path(path).exists():
        raise UserError(f"{key}={path} does not exist: give {KINDS}.")
    if not Path(path).is_dir():
        raise UserError(f"{key}={path} is not a kind of file that is supported: give {KINDS}.")


def sets_at(paths: str | Sequence[str], key: str = "data.evaluate") -> list[EvalSet]:
    """One path or several -> all their sets, each with a name of its own. Raises UserError."""
    given = [paths] if isinstance(paths, str) else list(paths)
    return distinct([(path, each) for path in given for each in _open(path, key)])


def distinct(found: Sequence[tuple[str, EvalSet]]) -> list[EvalSet]:
    """Sets with the paths that they came from -> with names of their own: the folder before the name where several
    are called alike (imagenet-val, places-val), and a number where that doesn't tell them apart."""
    names = Counter(each.name for _, each in found)
    longer = [
        each.name if names[each.name] == 1 else f"{_above(Path(path).resolve(), each)}-{each.name}"
        for path, each in found
    ]
    seen: Counter[str] = Counter()
    chosen = []
    for name in longer:
        seen[name] += 1
        chosen.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return [replace(each, name=name) for name, (_, each) in zip(chosen, found, strict=True)]


def _above(path: Path, evalset: EvalSet) -> str:
    """The folder that a set is in: `path` itself where that holds several."""
    return path.parent.name if path.name == evalset.name else path.name


def _open(path: str, key: str) -> list[EvalSet]:
    check_path(path, key)
    try:
        return _read(path)
    except UserError as error:  # readers call it by the key of `data=folder` and `data=benchmark`
        raise UserError(str(error).replace("data.path=", f"{key}=").replace("data.shards=", f"{key}=")) from error


def _read(path: str) -> list[EvalSet]:
    if path.endswith(SHARDS):
        stem = Path(path).name
        for ending in SHARDS:
            stem = stem.removesuffix(ending)
        return pair_set(path, name=Path(path).parent.name if stem == "index" else stem, files=Files())
    root = Path(path)
    marked = any((root / file).is_file() for file in (*MARKS, "sets.json"))
    if marked or any(next(root.glob(f"*/{file}"), None) for file in MARKS):
        return benchmark_sets(path)
    if (root / "index.json").is_file():
        return pair_set(str(root / "index.json"), name=root.resolve().name, files=Files())
    if next(root.glob("*.tar"), None):
        return pair_set([str(tar) for tar in sorted(root.glob("*.tar"))], name=root.resolve().name, files=Files())
    return folder_set(path)
