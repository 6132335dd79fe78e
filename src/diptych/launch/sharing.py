"""An evaluation on ranks that torchrun or srun started: each encodes a share of the pictures, and rank 0 writes.

    torchrun --nproc-per-node 8 src/evaluate.py checkpoint=RUN_DIR data=imagenet data.path=…

All ranks go through the whole task with the features of all, so a number is computed as by one process; what would be
written twice goes nowhere.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.base.allocator import keep_freed_memory
from diptych.launch.world import adopt, meet, outside

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import Store

STAMP = "diptych/stamp"
_met: list[Store] = []
_evaluations = itertools.count()


def agree_on_folder() -> None:
    """All ranks name the folder by rank 0's clock, before a config is composed. Alone: nothing."""
    world = outside()
    if world is None:
        return
    adopt(world)
    store = meet(world)
    _met.append(store)
    if world.rank == 0:
        store.set(STAMP, os.environ["DIPTYCH_STAMP"])
    else:
        os.environ["DIPTYCH_STAMP"] = store.get(STAMP).decode()


@contextmanager
def shared(results: AbstractContextManager[Path]) -> Iterator[Path]:
    """Where this process writes: in `results` for rank 0 and for one process alone; else in a folder that goes, and a
    terminal that shows nothing. Within, `diptych.launch.distributed` knows the ranks."""
    world = outside()
    if world is None:
        with results as out:
            yield out
        return
    import torch.distributed as dist

    group = dist.PrefixStore(f"evaluation{next(_evaluations)}", _met[-1])  # a sweep evaluates several times
    dist.init_process_group("gloo", store=group, rank=world.rank, world_size=world.size)
    try:
        if world.rank == 0:
            with results as out:
                yield out
        else:
            with (
                tempfile.TemporaryDirectory() as other,
                Path(os.devnull).open("w", encoding="utf-8") as nowhere,
                redirect_stdout(nowhere),
            ):
                yield Path(other)
        dist.barrier()  # whoever starts ranks may end all when one has ended
    finally:
        dist.destroy_process_group()


def place(model: nn.Module) -> None:
    """Move a model to the GPU of this rank; where there is none it stays, and this process keeps what it frees."""
    import torch

    if torch.cuda.is_available():
        model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()))
    else:
        keep_freed_memory()
