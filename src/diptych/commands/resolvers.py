"""The functions that `${…}` in our configs may call."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.commands.overrides import usage
from diptych.launch.world import outside


def register_resolvers() -> None:
    """`gpus_or:n`: the number of ranks that torchrun or srun started on this machine, or of its GPUs, or n.
    `budget:samples,batch,steps`: the steps for a number of samples, or `steps` where samples is null.
    `run_dir:resume,name`: the folder of a resumed or of a new run. `sweep_dir:`: the folder of a sweep.
    `vocab_size:file`: the number of ids of a vocabulary, null for OpenAI's.
    `lines:file,key`: the lines of a file; `count:list`: the length of a list.
    `usage:command`: how to type a command.
    `streams_for:batch`: the number of canonical streams for a batch, which divides the batch."""
    OmegaConf.register_new_resolver("gpus_or", _gpus_or, replace=True)
    OmegaConf.register_new_resolver("budget", budget, replace=True)
    OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
    OmegaConf.register_new_resolver("sweep_dir", _sweep_dir, replace=True)
    OmegaConf.register_new_resolver("vocab_size", vocab_size, replace=True)
    OmegaConf.register_new_resolver("streams_for", _streams_for, replace=True)
    OmegaConf.register_new_resolver("usage", partial(usage, ROOT / "conf"), replace=True)
    OmegaConf.register_new_resolver("lines", _lines, replace=True)
    OmegaConf.register_new_resolver("count", len, replace=True)


def _gpus_or(number: int) -> int:
    import torch

    world = outside()
    return (world.local_size if world else 0) or torch.cuda.device_count() or int(number)


def budget(samples: Any, batch_size: Any, steps: Any) -> int:
    for key, value in (("samples", samples), ("data.batch_size", batch_size)):
        if value is not None and not (is_whole(value) and value > 0):
            raise UserError(f"{key}={value} must be a whole number of at least 1.")
    return steps if samples is None else max(1, math.ceil(samples / batch_size))


def _streams_for(batch_size: Any) -> int:
    """A power of two, which most ranks × workers divide. It depends on the batch only: ranks and workers may
    not change the order of samples."""
    return math.gcd(batch_size, 256) if isinstance(batch_size, int) and batch_size > 0 else 1


def _run_dir(resume: str | None, name: object) -> str:
    if resume is not None:
        return resume
    check_name(name)
    return f"runs/{name}/{os.environ['DIPTYCH_STAMP']}"


def check_name(name: object) -> None:
    """A run's name is a folder below `runs/`. Raises UserError for one that leads out of it, or is hard to type."""
    parts = str(name).split("/")
    if not str(name).isprintable() or any(part in ("", ".", "..") or part != part.strip() for part in parts):
        raise UserError(f"name={str(name)!a} names no folder below runs/: take words, and / between them if any.")
    if parts[0].startswith("-"):
        raise UserError(f"name={name} begins with -, like an option: take another name.")
    if any(len(os.fsencode(part)) > 200 for part in parts):
        raise UserError(f"name={str(name)[:20]}… is too long: a folder's name has at most 200 bytes here.")


def _sweep_dir(*, _root_: DictConfig) -> str:
    """`run_dir` or `name` if they were typed, otherwise "sweep": the default name, the model's, may differ by job."""
    given = {key: str(_root_._get_node(key)) for key in ("run_dir", "name")}
    if not given["run_dir"].startswith("${"):
        return given["run_dir"]
    return _run_dir(None, "sweep" if given["name"].startswith("${") else given["name"])


def vocab_size(vocabulary: str | None) -> int:
    from diptych.data.text.tokenizer import Tokenizer

    return Tokenizer(vocabulary=vocabulary).vocab_size


def _lines(file: str | None, key: str = "model.text.phrases") -> ListConfig:
    if file is None:
        raise UserError(f"{key}= is missing: give a file with one phrase a line.")
    from diptych.base.textfile import read_entries

    if not Path(file).is_file():
        raise UserError(f"{file} is missing: give a file with one phrase a line.")
    return ListConfig(read_entries(file))


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
