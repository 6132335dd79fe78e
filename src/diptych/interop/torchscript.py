"""OpenAI's TorchScript archives: the weights are read, the code is not, and `torch.jit` isn't even imported.

Such a file is a zip: `data.pkl` is the tree of modules, `data/N` are the numbers, `code/` is not opened.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.interop import pickles
from diptych.interop.files import check_sizes, open_archive, refuse
from diptych.interop.pickles import Made, Named, Stored

REBUILD = "torch._utils._rebuild_tensor_v2"
DTYPES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
}
MASK = "attn_mask"  # a constant in the blocks, not learned
DEEPEST, MOST = 32, 2**14  # levels of modules, and modules in all: a tree may contain one branch many times


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip with an entry that only TorchScript writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The state dict of the archive's module; none of its code runs.

    Raises UserError for a pickle that names anything but modules and tensors, and for missing numbers.
    """
    with open_archive(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [
            name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise refuse(path, "a TorchScript archive with no or several data.pkl")
        numbers = f"{roots[0]}data/"
        check_sizes(path, [e for n, e in entries.items() if n.startswith(numbers) or n == f"{roots[0]}data.pkl"])
        order = f"{roots[0]}byteorder"
        try:
            if order in entries and archive.read(order) != b"little":
                raise refuse(path, "its numbers aren't little-endian")
            tree = pickles.read(archive.read(f"{roots[0]}data.pkl"), _allowed)
            return _Reader(archive, numbers).state(tree)
        except pickles.Refused as error:
            raise refuse(path, f"a TorchScript archive with {error}") from error
        except (zipfile.BadZipFile, EOFError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise refuse(path, f"a damaged TorchScript archive ({error})") from error


def _allowed(name: str) -> bool:
    return (
        name.startswith(("__torch__.", "torch.jit._pickle.build_"))
        or name in DTYPES
        or name in (REBUILD, "collections.OrderedDict")
    )


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, numbers: str) -> None:
        self.archive, self.numbers = archive, numbers
        self.storages: dict[str, Tensor] = {}
        self.found: dict[str, Tensor] = {}
        self.modules = 0

    def state(self, tree: Any) -> dict[str, Tensor]:
        if not isinstance(tree, Made) or not tree.name.startswith("__torch__."):
            raise pickles.Refused("no module in it")
        self.walk(tree, ())
        return self.found

    def walk(self, module: Made, path: tuple[str, ...]) -> None:
        # The state of a module with its own __setstate__ is not a dictionary, and only its code could read it.
        self.modules += 1
        if len(path) > DEEPEST or self.modules > MOST:
            raise pickles.Refused("modules without end")
        for name, value in module.state.items() if isinstance(module.state, dict) else ():
            if not isinstance(value, Made) or name == MASK:
                continue
            if value.name == REBUILD:
                self.found[".".join((*path, str(name)))] = self.tensor(value.arguments)
            elif value.name.startswith("__torch__."):
                self.walk(value, (*path, str(name)))

    def tensor(self, arguments: Any) -> Tensor:
        stored, offset, size, stride = arguments[:4]
        whole = [offset, *size, *stride]
        if len(size) != len(stride) or not all(type(number) is int and 0 <= number < 2**48 for number in whole):
            raise pickles.Refused("a tensor of impossible shape")
        storage = self.storage(stored)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= len(storage):
            raise pickles.Refused(f"a tensor of shape {list(size)} that needs more than its {len(storage):,} numbers")
        return storage.as_strided(size, stride, offset)

    def storage(self, stored: Any) -> Tensor:
        if not isinstance(stored, Stored) or not isinstance(stored.reference, tuple) or len(stored.reference) != 5:
            raise pickles.Refused("a tensor without numbers")
        _, kind, key, _, _ = stored.reference
        if not isinstance(kind, Named) or kind.name not in DTYPES:
            raise pickles.Refused("numbers of an unknown kind")
        if key not in self.storages:
            try:
                raw = bytearray(self.archive.read(f"{self.numbers}{key}"))
            except KeyError as error:
                raise pickles.Refused(f"the missing entry data/{key}") from error
            dtype = DTYPES[kind.name]
            raw = raw[: len(raw) - len(raw) % dtype.itemsize]
            self.storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return self.storages[key]
