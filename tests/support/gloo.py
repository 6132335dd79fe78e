"""Real gloo ranks for tests: start, run, collect."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Ranks are forked from a server that has imported these: 0.2 s for four of them instead of 3 s.
PRELOADED = ["torch", "torch.distributed", "torch.nn.parallel", "lightning", "pytest", "diptych.training.module"]


def on_ranks(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """`work(rank, world, *args)` in `world` processes joined by gloo -> their results, tensors and plain data.
    `work` is a module-level function."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (world, port, folder, work, args), nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _rank(rank: int, world: int, port: int, folder: str, work: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        torch.save(work(rank, world, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
