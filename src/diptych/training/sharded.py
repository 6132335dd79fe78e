"""Checkpoints as folders (torch.distributed.checkpoint), to which every rank writes its shards beside the training.

`step=N.ckpt/` holds `.metadata` and `*.distcp` for all tensors, by their dotted names, and `meta.pt` for the rest. It
is whole or not there, like a checkpoint file, and a run with any strategy and number of ranks goes on from it.
"""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from diptych.base.errors import UserError
from diptych.base.files import sync_folder
from diptych.interop.sharded import REST, opened, read_rest
from diptych.training.naming import replace, settle
from diptych.training.parallel import from_rows, in_layout, rows_of

TENSOR = "tensor"  # in meta.pt, {"tensor": name} stands for one that lies in the shards
SHARDED = ("state_dict", "optimizer_states")  # of a checkpoint


class CheckpointIO(TorchCheckpointIO):
    """Reads files and folders as data, so that a run goes on from either; writes one checkpoint at a time, from a
    copy, while the training goes on.

    The next save waits for the one under way, so a slow disk holds the training up and doesn't fill the memory. A
    write that a disk refuses leaves the older checkpoints as they are and is counted in `failed`; any other error is
    raised at the next save or `wait`.

    keep: how many step checkpoints stay
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.failed = 0
        self.last_error: OSError | None = None  # of the newest write, None where it went well
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> Any:
        if Path(path).is_dir():
            return read(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)

    def begin(self, write: Callable[..., None], *arguments: Any) -> None:
        """Call `write` in the background. Nothing else may be under way: `wait` before."""
        self._writing = self._thread.submit(write, *arguments)

    def wait(self) -> None:
        """Until nothing is being written. Raises what went wrong, but for a disk that refused."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        self.last_error = None
        try:
            writing.result()
        except (OSError, CheckpointException) as error:
            self.last_error = _refusal(error)
            self.failed += 1


class CheckpointFolders(CheckpointIO):
    """Every rank writes its shards to a folder. All ranks make the same calls."""

    _group: dist.ProcessGroup | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = ()) -> None:
        """storage_options: what else the folder is called, such as ["last.ckpt"]"""
        self.wait()
        if self._group is None:  # of its own: what the thread exchanges must not meet what the training does
            self._group = dist.new_group(backend="gloo")
        tensors: dict[str, Tensor] = {}
        rest = copy.deepcopy({key: value for key, value in checkpoint.items() if key not in SHARDED})
        for key in SHARDED:
            rest[key] = _apart(checkpoint[key], key, tensors)
        self.begin(self._write, tensors, rest, Path(path), storage_options or ())

    def _write(self, tensors: dict[str, Tensor], rest: dict[str, Any], path: Path, names: Sequence[str]) -> None:
        partial = path.with_name(f".{path.name}.partial")
        first = dist.get_rank() == 0
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier(self._group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on its own deprecated functions
            writer = dcp.FileSystemWriter(partial, sync_files=True)
            dcp.save(tensors, storage_writer=writer, process_group=self._group)
        if first:  # all shards are on the disk: rank 0 wrote the metadata last of all
            with (partial / REST).open("wb") as file:
                torch.save(rest, file)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(partial)
            replace(partial, path)
            settle(path, names, self.keep)


def read(folder: Path, like: Callable[[str], Tensor | None] = lambda name: None) -> dict[str, Any]:
    """The checkpoint in `folder`, read as data: as one process would have written it, or what this rank needs of it.

    like: of a tensor's name, one that is cut as it is to be: only this rank's rows are read then; None for all of it.
        No rank waits for another
    Raises UserError for a folder that isn't whole or lies.
    """
    rest = read_rest(folder)
    if not all(key in rest for key in SHARDED):
        raise UserError(
            f"{folder} is no checkpoint that a run goes on from: convert its weights with src/convert.py."
        )
    with opened(folder) as reader:
        wanted = reader.wanted()

        def fetch(name: str) -> Tensor:
            cut = like(name)
            if isinstance(cut, DTensor) and cut.shape == reader.shape(name):
                return from_rows(reader.join(name, wanted[name], rows_of(cut)), cut)
            return in_layout(reader.join(name, wanted[name]))

        return rest | {key: _together(rest[key], fetch) for key in SHARDED}


def _apart(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`tree` with a name for every tensor, of which `tensors` gets a copy on the CPU."""
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().to("cpu", copy=True)
        return {TENSOR: name}
    if isinstance(tree, dict):
        return {key: _apart(value, f"{name}.{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_apart(value, f"{name}.{place}", tensors) for place, value in enumerate(tree)]
    return tree


def _together(tree: Any, fetch: Callable[[str], Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {TENSOR}:
            return fetch(tree[TENSOR])
        return {key: _together(value, fetch) for key, value in tree.items()}
    return [_together(value, fetch) for value in tree] if isinstance(tree, list) else tree


def _refusal(error: OSError | CheckpointException) -> OSError:
    """What a disk said, on whichever rank. Any other error is raised."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else [(error, None)]
    for cause, _ in failures:
        if isinstance(cause, OSError):
            return cause
    raise error
