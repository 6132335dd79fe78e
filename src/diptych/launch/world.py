"""Ranks that another program has started, torchrun or SLURM's srun: which one this process is, how they meet and
share an evaluation, and how a SLURM job that was stopped runs again."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.base.allocator import keep_freed_memory
from diptych.base.errors import Stopped, UserError
from diptych.base.terminal import complain, say

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import Store

# torchrun's variables, and their values in a process that runs alone.
ALONE = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "GROUP_RANK": "0",
    "NODE_RANK": "0",
}
SILENCE = 30.0  # seconds of waiting for other ranks, after which a line says so


@dataclass(frozen=True)
class World:
    """rank of size over all machines; local_size: ranks on each machine; launcher: the name of its command"""

    rank: int
    size: int
    local_size: int
    launcher: str

    @property
    def nodes(self) -> int:
        return self.size // self.local_size


def outside(environment: Mapping[str, str] | None = None) -> World | None:
    """This process's place among the ranks that torchrun or srun started; None if they started only one or none."""
    env = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        rank, size, local_size = (_number(env, name, "torchrun") for name in names)
        world = World(rank, size, local_size, "torchrun")
    elif _is_task_of_srun(env):
        size, nodes = _number(env, "SLURM_NTASKS", "srun"), _nodes_of_step(env)
        if size % nodes:
            raise UserError(
                f"srun started {size} tasks on {nodes} nodes: start the same number on each (--ntasks-per-node)."
            )
        world = World(_number(env, "SLURM_PROCID", "srun"), size, size // nodes, "srun")
    else:
        return None
    if not (0 <= world.rank < world.size and 1 <= world.local_size <= world.size):
        raise UserError(
            f"{world.launcher}'s variables contradict each other: rank {world.rank} of {world.size},"
            f" {world.local_size} on each machine. If it did not start this process, {_unset(env)}."
        )
    return world if world.size > 1 else None


def refuse_leftovers(environment: Mapping[str, str] | None = None) -> None:
    """Raises UserError for a variable that makes this process one of several, if neither torchrun nor srun started
    it: it would wait for the others, or write nothing because it isn't rank 0."""
    env = os.environ if environment is None else environment
    if outside(env) is not None or "TORCHELASTIC_RUN_ID" in env:
        return
    said = [f"{name}={env[name]}" for name, value in ALONE.items() if env.get(name, value).strip() != value]
    if said:
        raise UserError(
            f"{' and '.join(said)} in the environment says that this process is one of several, but neither torchrun"
            f" nor srun has started it: {_unset(env)}, or start it with torchrun (docs/launching.md)."
        )
    if env.get("SLURM_PROCID", "0").strip() != "0" and not _is_task_of_srun(env):
        raise UserError(
            f"SLURM_PROCID={env['SLURM_PROCID']} says that this process is one of several, but srun's other variables"
            " are missing: type `unset SLURM_PROCID`, or start it with srun."
        )


def _unset(env: Mapping[str, str]) -> str:
    names = (*ALONE, "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    return f"type `unset {' '.join(name for name in names if name in env)}`"


def _number(env: Mapping[str, str], name: str, launcher: str) -> int:
    try:
        return int(env[name])
    except (KeyError, ValueError):
        said = f"{name}={env[name]} is not a whole number" if name in env else f"{name} is missing"
        raise UserError(
            f"{said} in the environment, where {launcher} sets it: start the command with {launcher}; if it did not"
            f" start this process, {_unset(env)}."
        ) from None


def _nodes_of_step(env: Mapping[str, str]) -> int:
    name = next((name for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES") if env.get(name)), None)
    nodes = 1 if name is None else _number(env, name, "srun")
    if nodes < 1:
        raise UserError(f"{name}={nodes} in the environment is not a number of nodes: type `unset {name}`.")
    return nodes


def _is_task_of_srun(env: Mapping[str, str]) -> bool:
    """A batch script, or a shell in an allocation, has a number of tasks too, but no task has been started."""
    return all(name in env for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS"))


def own_rank() -> int:
    """This process's rank, from its environment; 0 for a process alone."""
    return int(os.environ.get("RANK", 0))


def nodes() -> int:
    """Number of machines with ranks, from the environment of any rank."""
    return int(os.environ.get("WORLD_SIZE", 1)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def adopt(world: World) -> None:
    """Copy SLURM's variables to torchrun's names, which all other code reads."""
    env = os.environ
    if world.launcher == "srun":
        job = int(env.get("SLURM_JOB_ID", 0)) + int(env.get("SLURM_STEP_ID", 0))
        env.setdefault("MASTER_ADDR", first_host(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST", "")))
        env.setdefault("MASTER_PORT", str(20000 + job % 20000))
        local = env.get("SLURM_LOCALID", str(world.rank % world.local_size))
        env |= {"RANK": str(world.rank), "WORLD_SIZE": str(world.size), "LOCAL_RANK": local}
        env["LOCAL_WORLD_SIZE"] = str(world.local_size)
        env["NODE_RANK"] = env.get("SLURM_NODEID", str(world.rank // world.local_size))


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: `gpu[003-010,12],cpu1` -> `gpu003`; this machine for an empty list."""
    found = re.match(r"([^,\[]*)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    assert found is not None
    return "".join(part or "" for part in found.groups()) or "127.0.0.1"


_stores: list[Store] = []  # stay open as long as the process runs


def meet(world: World) -> Store:
    """The store through which the ranks exchange what they need before they have a process group. Raises UserError if
    some don't come."""
    from torch.distributed.rendezvous import rendezvous

    address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    waiting = threading.Timer(SILENCE, _say_who_is_missing, (world, f"{address}:{port}"))
    waiting.daemon = True
    waiting.start()
    try:
        socket.getaddrinfo(address, None)  # torch would ask again and again until its timeout
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun listens before it starts ranks
            socket.create_connection((address or "", int(port or 0)), timeout=SILENCE).close()
        store, _, _ = next(iter(rendezvous("env://", world.rank, world.size)))
    except Exception as error:
        raise UserError(
            f"Rank {world.rank} of {world.size} did not meet the others at MASTER_ADDR:MASTER_PORT={address}:{port}"
            f" ({str(error).splitlines()[0]}): set an address that all ranks can reach; if {world.launcher} did not"
            f" start this process, {_unset(os.environ)}."
        ) from error
    finally:
        waiting.cancel()
    _stores.append(store)
    return store


def _say_who_is_missing(world: World, address: str) -> None:
    complain(f"rank {world.rank} waits for the {world.size - 1} others of {world.launcher} at {address}.")


def announce(store: Store, config: dict[str, Any], run_dir: Path, resume: bool) -> None:
    """Rank 0: tell the other ranks that the run's folder is ready, and give them its config."""
    store.set("diptych/run", json.dumps({"config": config, "run_dir": str(run_dir.resolve()), "resume": resume}))


def announced(store: Store) -> tuple[dict[str, Any], Path, bool] | None:
    """The other ranks: wait for what rank 0 announces; None if it ended before."""
    try:
        said = json.loads(store.get("diptych/run"))
    except RuntimeError:  # torch's errors for a lost connection and for a timeout
        return None
    return said["config"], Path(said["run_dir"]), said["resume"]


# An evaluation on several ranks:
#     torchrun --nproc-per-node 8 src/evaluate.py checkpoint=RUN_DIR data=imagenet data.path=…
# Each rank encodes a share of the images. Then all ranks run the whole task with all features, so each number is
# computed as by one process; only rank 0 writes and prints.

_evaluations = itertools.count()


def agree_on_folder() -> None:
    """All ranks name the folder by rank 0's clock, before a config is composed. Does nothing in a process that runs
    alone."""
    world = outside()
    if world is None:
        return
    adopt(world)
    store = meet(world)
    if world.rank == 0:
        store.set("diptych/stamp", os.environ["DIPTYCH_STAMP"])
    else:
        os.environ["DIPTYCH_STAMP"] = store.get("diptych/stamp").decode()


@contextmanager
def shared(results: AbstractContextManager[Path]) -> Iterator[Path]:
    """The folder to write to: `results` for rank 0 and for a process alone; for other ranks a temporary folder, and
    what they print is dropped. Within, `diptych.launch.distributed` knows the ranks."""
    world = outside()
    if world is None:
        with results as out:
            yield out
        return
    import torch.distributed as dist

    group = dist.PrefixStore(f"evaluation{next(_evaluations)}", _stores[-1])  # a sweep evaluates several times
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
        dist.barrier()  # a launcher may end all ranks when the first has ended
    finally:
        dist.destroy_process_group()


def place(model: nn.Module) -> None:
    """Move a model to this rank's GPU. Without a GPU it stays, and this process keeps the memory that it frees."""
    import torch

    if torch.cuda.is_available():
        model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()))
    else:
        keep_freed_memory()


def started_again() -> bool:
    """Whether this job has run before: SLURM requeued it, or torchrun restarted its ranks (--max-restarts).

    Raises UserError for a count that is not a number.
    """
    counts = {name: os.environ.get(name) or "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")}
    for name, count in counts.items():
        if not (count.isascii() and count.isdecimal()):
            raise UserError(f"{name}={count} in the environment is not a whole number: type `unset {name}`.")
    return any(int(count) > 0 for count in counts.values())


def requeue(stopped: Stopped) -> None:
    """Put this process's SLURM job back into the queue, unless a person stopped it."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ.get("SLURM_JOB_ID")
    if job is None or stopped.signum == signal.SIGINT or "JobState=CANCELLED" in _scontrol("show", "job", job):
        return
    said = _scontrol("requeue", job)
    say(f"diptych: SLURM's job {job} is requeued{': ' + said if said else ''}.", file=sys.stderr)


def _scontrol(*arguments: str) -> str:
    try:
        ended = subprocess.run(["scontrol", *arguments], capture_output=True, text=True)
    except OSError as error:
        return f"scontrol can't be run ({error.strerror})"
    return " ".join((ended.stdout + ended.stderr).split())
