"""Ranks that something else has started: torchrun, or SLURM's srun."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.base.errors import UserError
from diptych.base.terminal import complain

if TYPE_CHECKING:
    from torch.distributed import Store


@dataclass(frozen=True)
class World:
    """rank of size over all machines; local_size: ranks on each machine; launcher: as its command is called"""

    rank: int
    size: int
    local_size: int
    launcher: str

    @property
    def nodes(self) -> int:
        return self.size // self.local_size


def outside(environment: Mapping[str, str] | None = None) -> World | None:
    """Where torchrun or srun has put this process; None where nothing started several."""
    env = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in env:
        rank, size, local_size = (_number(env, name, "torchrun") for name in TORCHRUN)
        world = World(rank, size, local_size, "torchrun")
    elif _is_task_of_srun(env):
        size, nodes = _number(env, "SLURM_NTASKS", "srun"), _nodes_of_step(env)
        if size % nodes:
            raise UserError(f"srun started {size} tasks on {nodes} nodes: take as many on each (--ntasks-per-node).")
        world = World(_number(env, "SLURM_PROCID", "srun"), size, size // nodes, "srun")
    else:
        return None
    if not (0 <= world.rank < world.size and 1 <= world.local_size <= world.size):
        raise UserError(
            f"{world.launcher}'s variables don't fit together: rank {world.rank} of {world.size},"
            f" {world.local_size} a machine. If it did not start this process, {_unset(env)}."
        )
    return world if world.size > 1 else None


TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
RANKS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def refuse_leftovers(environment: Mapping[str, str] | None = None) -> None:
    """Where neither torchrun nor srun has started this process, no variable may say that it is one of several: it
    would wait for the others, or keep its numbers to itself as a rank that isn't the first. Raises UserError."""
    env = os.environ if environment is None else environment
    if outside(env) is not None or "TORCHELASTIC_RUN_ID" in env:
        return
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "GROUP_RANK": "0",
        "NODE_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
    }
    said = [f"{name}={env[name]}" for name, value in alone.items() if env.get(name, value).strip() != value]
    if said:
        raise UserError(
            f"{' and '.join(said)} in the environment says that this process is one of several, but neither torchrun"
            f" nor srun has started it: {_unset(env)}, or start it with torchrun (docs/launching.md)."
        )
    if env.get("SLURM_PROCID", "0").strip() != "0" and not _is_task_of_srun(env):
        raise UserError(
            f"SLURM_PROCID={env['SLURM_PROCID']} says that this process is one of several, but srun has not set the"
            " variables of a task beside it: type `unset SLURM_PROCID`, or start it with srun."
        )


def _unset(env: Mapping[str, str]) -> str:
    return f"type `unset {' '.join(name for name in (*RANKS, 'TORCHELASTIC_RUN_ID') if name in env)}`"


def _number(env: Mapping[str, str], name: str, launcher: str) -> int:
    try:
        return int(env[name])
    except (KeyError, ValueError):
        said = f"{name}={env[name]} is no whole number" if name in env else f"{name} is missing"
        raise UserError(
            f"{said} in the environment, where {launcher} sets it: start the command with {launcher}, or, if it did"
            f" not start this process, {_unset(env)}."
        ) from None


def _nodes_of_step(env: Mapping[str, str]) -> int:
    name = next((name for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES") if env.get(name)), None)
    nodes = 1 if name is None else _number(env, name, "srun")
    if nodes < 1:
        raise UserError(f"{name}={nodes} in the environment is no number of nodes: type `unset {name}`.")
    return nodes


def nodes() -> int:
    """Machines that the ranks stand on, as the environment of each rank says."""
    return int(os.environ.get("WORLD_SIZE", 1)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _is_task_of_srun(env: Mapping[str, str]) -> bool:
    """A batch script, or a shell in an allocation, has a number of tasks too, without having started any."""
    return all(name in env for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS"))


def adopt(world: World) -> None:
    """Put SLURM's variables under the names that torchrun gives, which all that follows reads."""
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
    """SLURM's list of nodes, as `gpu[003-010,12],cpu1` -> `gpu003`; this machine for an empty one."""
    found = re.match(r"([^,\[]*)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    assert found is not None
    return "".join(part or "" for part in found.groups()) or "127.0.0.1"


def meet(world: World) -> Store:
    """The place where rank 0 leaves word for the others, open as long as the process runs. Raises UserError where
    some did not come."""
    from torch.distributed.rendezvous import rendezvous

    address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    waiting = threading.Timer(SILENCE, _say_who_is_missed, (world, f"{address}:{port}"))
    waiting.daemon = True
    waiting.start()
    try:
        socket.getaddrinfo(address, None)  # torch would ask for it again until its timeout
        if (
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        ):  # torchrun itself listens, before it starts ranks
            socket.create_connection((address or "", int(port or 0)), timeout=SILENCE).close()
        store, _, _ = next(iter(rendezvous("env://", world.rank, world.size)))
    except Exception as error:
        raise UserError(
            f"Rank {world.rank} of {world.size} did not meet the others at MASTER_ADDR:MASTER_PORT={address}:{port}"
            f" ({str(error).splitlines()[0]}): {world.launcher} gives an address that all ranks reach; if it did not"
            f" start this process, {_unset(os.environ)}."
        ) from error
    finally:
        waiting.cancel()
    _open.append(store)
    return store


_open: list[Store] = []
SILENCE = 30.0  # seconds of waiting for other ranks after which a line says so


def _say_who_is_missed(world: World, address: str) -> None:
    complain(f"rank {world.rank} waits for the {world.size - 1} others of {world.launcher} at {address}.")


def announce(store: Store, config: dict[str, Any], run_dir: Path, resume: bool) -> None:
    """Rank 0: the run's folder is ready, and this is its config."""
    store.set("diptych/run", json.dumps({"config": config, "run_dir": str(run_dir.resolve()), "resume": resume}))


def announced(store: Store) -> tuple[dict[str, Any], Path, bool] | None:
    """Every other rank: waits for rank 0's word; None where it ended without one."""
    try:
        said = json.loads(store.get("diptych/run"))
    except RuntimeError:  # torch's own classes for a lost connection and for waiting in vain
        return None
    return said["config"], Path(said["run_dir"]), said["resume"]
