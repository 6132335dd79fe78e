"""Sharded checkpoints, ours and Lightning's: folders of torch.distributed.checkpoint, read without a process group.

`.metadata` is a pickle that torch would execute. Here it is read as a tree (`pickles`), in which only names of the
classes that torch writes there may occur. The numbers are slices of `*.distcp` files; `torch.save` wrote one tensor
into each slice.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.interop import pickles
from diptych.interop.files import plain_state, read_torch, refuse
from diptych.interop.own import LOGIT_BIAS, PREFIX, from_checkpoint
from diptych.interop.pickles import Made
from diptych.interop.weights import Weights

METADATA, REST = ".metadata", "meta.pt"  # the second holds everything but tensors
STATE = "state_dict."
CHECKPOINT = "torch.distributed.checkpoint."
CLASSES = {
    f"{CHECKPOINT}metadata.{name}"
    for name in (
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "_MEM_FORMAT_ENCODING",
    )
} | {f"{CHECKPOINT}filesystem._StorageInfo", "torch.Size", "torch.serialization._get_layout"}
CLASSES |= {"collections.OrderedDict", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath"}
CLASSES |= {"pathlib._local.PosixPath", "pathlib._local.WindowsPath"}
DTYPES = {f"torch.{name}": getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64", "int64")}
OTHER = {f"torch.{name}" for name in ("int32", "int16", "int8", "uint8", "bool")}  # of tensors that aren't read


def read(folder: Path) -> Weights:
    """The weights in a sharded checkpoint of a run.

    Raises UserError for metadata with other names, missing slices, and a missing description.
    """
    state = read_tensors(folder, f"{STATE}{PREFIX}") | read_tensors(folder, f"{STATE}{LOGIT_BIAS}")
    return from_checkpoint(read_rest(folder) | {"state_dict": state}, folder)


def read_rest(folder: Path) -> dict[str, Any]:
    """What a sharded checkpoint holds besides tensors. Raises UserError if it is missing or not plain data."""
    if not (folder / REST).is_file():
        raise refuse(folder, f"{REST} is missing in it: it is not a sharded checkpoint of Lightning's")
    found = read_torch(folder / REST)
    if not isinstance(found, dict):
        raise refuse(folder / REST, f"it holds a {type(found).__name__}")
    return found


def read_tensors(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, whole, by their names without the first part."""
    with opened(folder, prefix) as reader:
        return reader.state()


@contextmanager
def opened(folder: Path, prefix: str = "") -> Iterator[Reader]:
    """Gives a Reader of a folder. Raises UserError for metadata that is damaged or hostile, also inside the block."""
    read_rest(folder)
    try:
        yield Reader(folder, pickles.read((folder / METADATA).read_bytes(), _allowed), prefix)
    except pickles.Refused as error:
        raise refuse(folder, f"its {METADATA} is {error}") from error
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise refuse(folder, f"its {METADATA} doesn't fit the files beside it ({error})") from error


def _allowed(name: str) -> bool:
    return name in CLASSES or name in DTYPES or name in OTHER


class Reader:
    """Reads the tensors in a folder whose names begin with `prefix`. Raises Refused for wrong metadata."""

    def __init__(self, folder: Path, tree: Made, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.tensors: dict[str, Made] = tree.state["state_dict_metadata"]
        self.files = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        self.places: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
        for index, place in tree.state["storage_data"].items():
            key = index.state
            if key["fqn"].startswith(prefix) and self._is_tensor(self.tensors[key["fqn"]]):
                offset = key.get("offset")
                self.places[key["fqn"], _size(offset) if offset is not None else ()] = place.state

    @staticmethod
    def _is_tensor(made: Made) -> bool:
        return made.name == f"{CHECKPOINT}metadata.TensorStorageMetadata"

    def wanted(self) -> dict[str, dict[str, Any]]:
        """The metadata of each tensor. Raises Refused if the tensors would be larger than the files."""
        wanted = {n: m.state for n, m in self.tensors.items() if n.startswith(self.prefix) and self._is_tensor(m)}
        promised = sum(math.prod(_size(meta["size"])) * _dtype(meta).itemsize for meta in wanted.values())
        if promised > self.files:
            raise pickles.Refused(f"a promise of {promised:,} bytes, and the files beside it have {self.files:,}")
        return wanted

    def shape(self, name: str) -> tuple[int, ...]:
        return _size(self.tensors[name].state["size"])

    def state(self) -> dict[str, Tensor]:
        found = {name.partition(".")[2]: self.join(name, meta) for name, meta in self.wanted().items()}
        return plain_state(found, self.folder)

    def join(self, name: str, meta: dict[str, Any], rows: range | None = None) -> Tensor:
        """The tensor, or some rows of it. Only the pieces with these rows are read."""
        size, dtype = _size(meta["size"]), _dtype(meta)
        if rows is not None and (rows.stop > size[0] or rows.step != 1):
            raise pickles.Refused(f"of another shape than is needed: {name} is {list(size)}")
        whole = torch.zeros(size if rows is None else (len(rows), *size[1:]), dtype=dtype)
        covered = 0
        for chunk in meta["chunks"]:
            offset, shape = _size(chunk.state["offsets"]), _size(chunk.state["sizes"])
            box = [slice(a, a + n) for a, n in zip(offset, shape, strict=True)]
            inside: list[slice] = []
            if rows is not None:
                first, last = max(offset[0], rows.start), min(offset[0] + shape[0], rows.stop)
                if first >= last:
                    continue
                inside = [slice(first - offset[0], last - offset[0])]
                box[0] = slice(first - rows.start, last - rows.start)
            piece = self.piece(self.places[name, offset], name)
            if piece.shape != shape or piece.dtype != dtype:
                raise pickles.Refused(f"wrong about {name}: {list(piece.shape)} there, {list(shape)} promised")
            piece, target = piece[tuple(inside)], whole[tuple(box)]
            if target.shape != piece.shape:
                raise pickles.Refused(f"wrong about {name}: a piece lies outside of it")
            target.copy_(piece)
            covered += piece.numel()
        if covered != whole.numel():
            raise pickles.Refused(f"incomplete: {covered:,} of {whole.numel():,} numbers of {name}")
        return whole

    def piece(self, place: dict[str, Any], name: str) -> Tensor:
        relative, offset, length = place["relative_path"], place["offset"], place["length"]
        if not isinstance(relative, str) or type(offset) is not int or type(length) is not int:
            raise pickles.Refused(f"one without a place for {name}")
        file = self.folder / relative
        if file.name != relative or file.resolve().parent != self.folder.resolve() or not file.is_file():
            raise pickles.Refused(f"one that looks for {name} in {relative!r}, no file of this folder")
        if place.get("transform_descriptors"):
            raise pickles.Refused(f"one of compressed pieces ({name}), which aren't read")
        if not 0 <= offset <= offset + length <= file.stat().st_size:
            raise pickles.Refused(f"longer than {relative}, which was cut")
        with file.open("rb") as source:
            source.seek(offset)
            raw = source.read(length)
        try:
            found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise pickles.Refused(f"followed by no plain tensor for {name}") from error
        if not isinstance(found, Tensor):
            raise pickles.Refused(f"followed by no tensor for {name}")
        return found


def _dtype(meta: dict[str, Any]) -> torch.dtype:
    return DTYPES[meta["properties"].state[0].name]


def _size(made: Any) -> tuple[int, ...]:
    if made.name != "torch.Size":
        raise pickles.Refused("one without a size where one is due")
    size = tuple(made.arguments[0]) if made.arguments else ()
    if not all(type(number) is int and 0 <= number < 2**48 for number in size):
        raise pickles.Refused("one with an impossible size")
    return size
