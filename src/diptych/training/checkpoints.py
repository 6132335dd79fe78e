"""Checkpoints on the disk: copied from the model at one moment, written while the training continues.

Each is `step=N.ckpt`, whole or not there: a file that rank 0 writes, or a folder (torch.distributed.checkpoint) to
which every rank writes its shards. `last.ckpt` and `best.ckpt` are second names of one. A folder holds `.metadata`
and `*.distcp` with all tensors, by their dotted names, and `meta.pt` with everything else. A run with any strategy
and any number of ranks can resume from both kinds.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from diptych.base.errors import UserError
from diptych.base.files import beside, sync_folder
from diptych.interop.sharded import REST, opened, read_rest
from diptych.training.parallel import from_rows, in_layout, rows_of

TENSOR = "tensor"  # in meta.pt, {"tensor": name} replaces a tensor that is in the shards
SHARDED = ("state_dict", "optimizer_states")  # the entries of a checkpoint whose tensors are in the shards


class CheckpointFiles(TorchCheckpointIO):
    """Reads files and folders as data, without executing anything in them. Writes files, one at a time, from a copy,
    in the background.

    The next save waits for the one before it, so a slow disk delays the training but doesn't fill the memory. If the
    disk refuses a write, the older checkpoints stay as they are, and the failure is counted in `failed`. Any other
    error is raised by the next save or `wait`.

    keep: number of step checkpoints that stay
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.failed = 0
        self.last_error: OSError | None = None  # of the newest write; None if it succeeded
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = ()) -> None:
        """storage_options: second names of this checkpoint, such as ["last.ckpt"]"""
        self.wait()
        self._writing = self._thread.submit(self._write, self._copy(checkpoint), Path(path), storage_options or ())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> Any:
        if Path(path).is_dir():
            return read(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)

    def wait(self) -> None:
        """Wait until nothing is being written. Raises any error of the write, except that the disk refused it."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        self.last_error = None
        try:
            writing.result()
        except (OSError, CheckpointException) as error:
            self.last_error = _disk_error(error)
            self.failed += 1

    def _copy(self, checkpoint: dict[str, Any]) -> Any:
        return snapshot(checkpoint)

    def _write(self, copied: Any, path: Path, names: Sequence[str]) -> None:
        write(copied, path)
        settle(path, names, self.keep)


class CheckpointFolders(CheckpointFiles):
    """Every rank writes its shards to a folder. All ranks make the same calls."""

    _group: dist.ProcessGroup | None = None

    def _copy(self, checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if self._group is None:  # its own group, so that the thread's messages don't mix with the training's
            self._group = dist.new_group(backend="gloo")
        tensors: dict[str, Tensor] = {}
        rest = copy.deepcopy({key: value for key, value in checkpoint.items() if key not in SHARDED})
        return tensors, rest | {key: _apart(checkpoint[key], key, tensors) for key in SHARDED}

    def _write(self, copied: Any, path: Path, names: Sequence[str]) -> None:
        tensors, rest = copied
        partial = path.with_name(f".{path.name}.partial")
        first = dist.get_rank() == 0
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier(self._group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own deprecated functions
            writer = dcp.FileSystemWriter(partial, sync_files=True)
            dcp.save(tensors, storage_writer=writer, process_group=self._group)
        if first:  # all shards are on the disk: rank 0 writes the metadata last
            with (partial / REST).open("wb") as file:
                torch.save(rest, file)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(partial)
            replace(partial, path)
            settle(path, names, self.keep)


def _disk_error(error: OSError | CheckpointException) -> OSError:
    """The disk's error, on whichever rank it was. Raises any other error."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else [(error, None)]
    for cause, _ in failures:
        if isinstance(cause, OSError):
            return cause
    raise error


def read(folder: Path, like: Callable[[str], Tensor | None] = lambda name: None) -> dict[str, Any]:
    """The checkpoint in `folder`, read as data: as one process would have written it, or this rank's part of it.

    like: name of a tensor -> a tensor that is sharded as this one should be: only this rank's rows are read then;
        None to read all of it. No rank waits for another
    Raises UserError for a folder that is damaged, incomplete or not a run's checkpoint.
    """
    rest = read_rest(folder)
    if not all(key in rest for key in SHARDED):
        raise UserError(
            f"{folder} is not a checkpoint that a run can resume from: convert its weights with src/convert.py."
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
    """`tree` with a name in place of every tensor; a copy of each tensor, on the CPU, goes into `tensors`."""
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


def snapshot(tree: Any) -> Any:
    """The same tree with a copy of every tensor on the CPU: the training changes the originals."""
    return apply_to_collection(tree, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))


def write(content: Any, file: Path) -> None:
    """After this, `file` is whole, also after a power cut; or it is not there. Raises OSError and leaves no part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with beside(file) as partial:
        with partial.open("wb+") as opened:
            stream = _Stream(opened)
            try:
                torch.save(content, stream)  # type: ignore[arg-type]
                seal(opened, stream.digest.digest())
            except Exception as error:
                raise stream.error or error from None  # torch hides the disk's error
        make_way(partial, file)


class _Stream:
    """A file for torch to write to. It computes the digest of all bytes and remembers the disk's first error."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.digest.update(data)
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def seal(file: IO[bytes], digest: bytes) -> None:
    """Store the digest of a zip file in the file itself, as its comment, which every reader skips. So file and digest
    reach the disk in one rename. A zip ends with the length of its comment, which is 0 as torch writes it."""
    file.seek(-2, os.SEEK_END)
    assert file.read(2) == b"\0\0"
    file.seek(-2, os.SEEK_END)
    file.write(len(digest).to_bytes(2, "little") + digest)


def digest_of_sealed(path: Path, comment: int) -> bytes:
    """The digest that a whole file has in its comment of `comment` bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size - comment - 2
    with path.open("rb") as file:
        while chunk := file.read(min(left, 2**20)):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")  # the comment's length as torch wrote it
    return digest.digest()


def settle(checkpoint: Path, names: Sequence[str], keep: int) -> None:
    """Give a whole checkpoint its second names, and remove all steps but the newest `keep`."""
    for name in names:
        give_name(checkpoint, checkpoint.with_name(name))
    sync_folder(checkpoint.parent)
    for old in step_checkpoints(checkpoint.parent)[keep:]:
        remove(old)


def give_name(checkpoint: Path, name: Path) -> None:
    """Give a checkpoint a second name in one step: at every moment, a whole one has that name."""
    partial = name.with_name(f".{name.name}.partial")
    partial.unlink(missing_ok=True)
    if checkpoint.is_dir():
        partial.symlink_to(checkpoint.name)
    else:
        os.link(checkpoint, partial)
    partial.replace(name)
    partial.unlink(missing_ok=True)  # if `name` was already a name of this file, nothing was renamed


def replace(partial: Path, path: Path) -> None:
    """Give a whole checkpoint its name."""
    make_way(partial, path)
    partial.replace(path)


def make_way(partial: Path, path: Path) -> None:
    """Remove what has the name of a new checkpoint but can't be replaced by it: a file can't replace a folder, nor a
    folder a file. A run that was killed left it, before it could also name it `last.ckpt`."""
    if path.is_dir():
        shutil.rmtree(path)
    elif partial.is_dir():
        path.unlink(missing_ok=True)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, file or folder; but not a folder that has a second name."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        checkpoint.unlink()
    elif not any(link.is_symlink() and link.samefile(checkpoint) for link in checkpoint.parent.iterdir()):
        shutil.rmtree(checkpoint)


def step_checkpoints(folder: Path) -> list[Path]:
    """All `step=N.ckpt` in `folder`, the newest first."""
    found = (path for path in folder.glob("step=*.ckpt") if path.stem.removeprefix("step=").isdecimal())
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step=")), reverse=True)
