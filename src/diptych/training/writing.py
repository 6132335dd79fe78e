"""Checkpoint files: copied from the model at one moment, written beside the training, whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from diptych.base.files import beside
from diptych.training.naming import make_way, settle
from diptych.training.sharded import CheckpointIO


class CheckpointFiles(CheckpointIO):
    """Lightning hands it a checkpoint, the background writes `step=N.ckpt` and gives it its further names."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = ()) -> None:
        """storage_options: the names that the file takes over, such as ["last.ckpt"]"""
        self.wait()
        self.begin(self._write, snapshot(checkpoint), Path(path), storage_options or ())

    def _write(self, checkpoint: dict[str, Any], file: Path, names: Sequence[str]) -> None:
        write(checkpoint, file)
        settle(file, names, self.keep)


def snapshot(tree: Any) -> Any:
    """The same tree of dicts, lists and tuples with every tensor copied to the CPU: weights move on, a copy not."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return type(tree)((key, snapshot(value)) for key, value in tree.items())
    if isinstance(tree, list):
        return [snapshot(value) for value in tree]
    if type(tree) is tuple:
        return tuple(snapshot(value) for value in tree)
    return tree


def write(content: Any, file: Path) -> None:
    """`file` is whole after this, also after a power cut, or is not there. Raises OSError, and leaves no part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with beside(file) as partial:
        with partial.open("wb+") as opened:
            stream = _Stream(opened)
            try:
                torch.save(content, stream)  # type: ignore[arg-type]
                seal(opened, stream.digest.digest())
            except Exception as error:
                raise stream.error or error from None  # torch hides what the disk said
        make_way(partial, file)


class _Stream:
    """A file for torch to write to that takes the digest of all bytes, and remembers why one could not be written."""

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
    """Keep the digest of a zip file in the file, as its comment, which every reader skips: so both come to the disk
    in one rename. A zip ends with the length of its comment, 0 as torch writes it."""
    file.seek(-2, os.SEEK_END)
    assert file.read(2) == b"\0\0"
    file.seek(-2, os.SEEK_END)
    file.write(len(digest).to_bytes(2, "little") + digest)


def digest_of_sealed(path: Path, comment: int) -> bytes:
    """The digest that a file should have kept in its comment of `comment` bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size - comment - 2
    with path.open("rb") as file:
        while chunk := file.read(min(left, 2**20)):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")  # the length as torch wrote it
    return digest.digest()
