"""Lightning's sharded checkpoint: a folder that torch.distributed.checkpoint wrote, opened without a process group.

`.metadata` is a pickle that torch would execute; here it is read as a tree (`pickles`), and only names of the
classes that torch writes there may occur in it. The numbers are slices of `*.distcp` files, each what
`torch.save` makes of one tensor.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.interop import pickles
from diptych.interop.files import plain_state, read_torch, refuse
from diptych.interop.own import PREFIX, from_checkpoint
from diptych.interop.pickles import Made
from diptych.interop.weights import Weights

METADATA, REST = ".metadata", "meta.pt"
STATE = f"state_dict.{PREFIX}"
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
OTHER = {f"torch.{name}" for name in ("int32", "int16", "int8", "uint8", "bool")}  # of what isn't read


def read(folder: Path) -> Weights:
    """The weights of a sharded checkpoint of a run of ours, joined.

    Raises UserError for metadata that names anything else, slices that aren't there, and a description that is
    missing.
    """
    rest = folder / REST
    if not rest.is_file():
        raise refuse(folder, f"{REST} is missing in it: not a sharded checkpoint of Lightning's")
    try:
        tree = pickles.read((folder / METADATA).read_bytes(), _allowed)
        state = _Reader(folder, tree).state()
    except pickles.Refused as error:
        raise refuse(folder, f"its {METADATA} is {error}") from error
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise refuse(folder, f"its {METADATA} doesn't fit what lies beside it ({error})") from error
    checkpoint = read_torch(rest)
    if not isinstance(checkpoint, dict):
        raise refuse(rest, f"it holds a {type(checkpoint).__name__}")
    return from_checkpoint(checkpoint | {"state_dict": state}, folder)


def _allowed(name: str) -> bool:
    return name in CLASSES or name in DTYPES or name in OTHER


class _Reader:
    def __init__(self, folder: Path, tree: Made) -> None:
        self.folder = folder
        self.tensors: dict[str, Made] = tree.state["state_dict_metadata"]
        self.files = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        self.places: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
        for index, place in tree.state["storage_data"].items():
            key = index.state
            if key["fqn"].startswith(STATE) and self._is_tensor(self.tensors[key["fqn"]]):
                offset = key.get("offset")
                self.places[key["fqn"], _size(offset) if offset is not None else ()] = place.state

    @staticmethod
    def _is_tensor(made: Made) -> bool:
        return made.name == f"{CHECKPOINT}metadata.TensorStorageMetadata"

    def state(self) -> dict[str, Tensor]:
        wanted = {n: m.state for n, m in self.tensors.items() if n.startswith(STATE) and self._is_tensor(m)}
        promised = sum(math.prod(_size(meta["size"])) * _dtype(meta).itemsize for meta in wanted.values())
        if promised > self.files:
            raise pickles.Refused(f"a promise of {promised:,} bytes, where {self.files:,} lie beside it")
        found = {name.removeprefix("state_dict."): self.join(name, meta) for name, meta in wanted.items()}
        return plain_state(found, self.folder)

    def join(self, name: str, meta: dict[str, Any]) -> Tensor:
        size, dtype = _size(meta["size"]), _dtype(meta)
        whole = torch.zeros(size, dtype=dtype)
        covered = 0
        for chunk in meta["chunks"]:
            offset, shape = _size(chunk.state["offsets"]), _size(chunk.state["sizes"])
            piece = self.piece(self.places[name, offset], name)
            if piece.shape != shape or piece.dtype != dtype:
                raise pickles.Refused(f"wrong about {name}: {list(piece.shape)} there, {list(shape)} promised")
            target = whole[tuple(slice(a, a + n) for a, n in zip(offset, shape, strict=True))]
            if target.shape != shape:
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
        with file.open("rb") as opened:
            opened.seek(offset)
            raw = opened.read(length)
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
