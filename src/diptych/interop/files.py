"""Untrusted files, read as data: torch's, safetensors, JSON, YAML. Anything else is refused in one sentence."""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.textfile import loads
from diptych.interop import pickles

MOST_PARTS = 10_000  # mappings' and lists' entries in a description: usually dozens
MOST_TEXT = 2**20  # bytes of a config: usually hundreds or thousands
MOST_LETTERS = 2**24  # in all texts of a description: a vocabulary in it has half a million
LEGACY_HEADER = 3  # pickles before the object's own in torch's format before 1.6


def refuse(path: Path, reason: str) -> UserError:
    """The error for a file that can't be read as plain tensors, to be raised."""
    return UserError(f"checkpoint={path} is refused: {' '.join(reason.split())}.")


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, if it is only tensors and plain data. Raises UserError for anything else."""
    if zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            check_sizes(path, archive.infolist())
    else:
        _check_legacy(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage makes torch's unpickler raise any kind of error
        raise refuse(path, f"not a whole file of plain tensors ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    # torch's own message also advises opening the file in the unsafe way.
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"a pickle that names {named[1]}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip. Raises UserError for damage, and for entries with paths out of it, links or repeated names."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise refuse(path, f"not a whole file of plain tensors ({error})") from error
    seen: set[str] = set()
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or stat.S_ISLNK(entry.external_attr >> 16):
            raise refuse(path, f"its entry {entry.filename!r} points outside of it")
        if entry.filename in seen:
            raise refuse(path, f"its entry {entry.filename!r} is there twice")
        seen.add(entry.filename)
    return archive


def check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raises UserError for compressed entries, and for more bytes than the file has: torch doesn't compress."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise refuse(path, f"its entry {entry.filename!r} is compressed, which torch's files never are")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise refuse(path, "its entries are larger than the file")


def _check_legacy(path: Path) -> None:
    """Raises UserError for a file in torch's format before 1.6 that promises more numbers than it has, since torch
    allocates memory for them before it reads."""
    try:
        with path.open("rb") as file:
            for _ in range(LEGACY_HEADER):
                pickles.read(file, lambda name: False)
            promised = _promised(pickles.read(file, lambda name: True))
    except pickles.Refused as error:
        raise refuse(path, f"not a whole file of plain tensors ({error})") from error
    if promised > path.stat().st_size:
        raise refuse(path, f"it promises {promised:,} numbers in {path.stat().st_size:,} bytes")


def _promised(tree: Any) -> int:
    """The numbers in all storages that a pickle refers to, each storage counted once."""
    found: dict[Any, int] = {}
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, pickles.Stored):
            reference = node.reference
            if isinstance(reference, tuple) and len(reference) >= 5 and isinstance(reference[4], int):
                found[str(reference[2])] = reference[4]
        elif isinstance(node, pickles.Made):
            waiting += [node.arguments, node.state, node.entries]
        elif isinstance(node, dict):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list | tuple):
            waiting += node
    return sum(found.values())


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError if the header doesn't fit the file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise refuse(path, f"not a whole safetensors file ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    _check_there(path)
    try:
        found = loads(plain.text_of(path, MOST_TEXT))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON object: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object but a {type(found).__name__}.")
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of plain data. Raises UserError for anything else, such as aliases or tags that make objects."""
    _check_there(path)
    return plain.read(path, MOST_TEXT)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing: it describes the weights beside it.")


def plain_data(found: Any, path: Path) -> Any:
    """A copy of a description as dictionaries, lists, numbers and text. Raises UserError for anything else, and for
    what is too large: a part that occurs many times could fill any memory when it is copied."""
    left, letters = MOST_PARTS, MOST_LETTERS

    def copy(node: Any) -> Any:
        nonlocal left, letters
        if isinstance(node, Mapping | list | tuple):
            left -= len(node)  # before its entries, since a mapping that contains itself never ends
        if left < 0:
            raise refuse(path, f"its description has more than {MOST_PARTS:,} parts")
        if isinstance(node, Mapping):
            if not all(isinstance(key, str) for key in node):
                raise refuse(path, "its description has a key that is not text")
            return {key: copy(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [copy(part) for part in node]
        letters -= len(node) if isinstance(node, str) else 0
        if letters < 0 or (isinstance(node, int) and abs(node) >= 2**63):
            raise refuse(path, "its description holds a number or a text that is too large")
        if node is None or isinstance(node, str | int | float):
            return node
        raise refuse(path, f"its description holds a {type(node).__name__}, which is not plain data")

    try:
        return copy(found)
    except RecursionError as error:
        raise refuse(path, "its description is nested without end") from error


def plain_state(found: Any, path: Path) -> dict[str, Tensor]:
    """`found` as a state dict: names and tensors, no larger than the numbers that the file has. Raises UserError for
    anything else."""
    if not isinstance(found, Mapping):
        raise refuse(path, f"it holds a {type(found).__name__}, not a state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            named = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
            raise refuse(path, f"its state dict holds a {type(value).__name__} under {named}, not a tensor")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise refuse(path, f"{name} is not a plain tensor ({value.layout}, {value.device})")
    promised = sum(value.numel() * value.element_size() for value in found.values())
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in found.values()}
    if promised > sum(storages.values()):
        raise refuse(path, f"its tensors promise {promised:,} bytes and hold {sum(storages.values()):,}")
    return dict(found)
