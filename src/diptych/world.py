"""Ranks that something else has started: torchrun, or SLURM's srun."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.errors import UserError

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
        world = World(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"]), "torchrun")
    elif _is_task_of_srun(env):
        size = int(env["SLURM_NTASKS"])
        nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
        if size % nodes:
            raise UserError(f"srun started {size} tasks on {nodes} nodes: take as many on each (--ntasks-per-node).")
        world = World(int(env["SLURM_PROCID"]), size, size // nodes, "srun")
    else:
        return None
    return world if world.size > 1 else None


def nodes() -> int:
    """Machines that the ranks stand on, as the environment of each rank says."""
    return int(os.environ.get("WORLD_SIZE", 1)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _is_task_of_srun(env: Mapping[str, str]) -> bool:
    """A batch script has a rank and a number of tasks too, without having started any."""
    batch_script = env.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in env
    return "SLURM_PROCID" in env and "SLURM_NTASKS" in env and not batch_script


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

    try:
        store, _, _ = next(iter(rendezvous("env://", world.rank, world.size)))
    except Exception as error:
        at = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"Rank {world.rank} of {world.size} did not meet the others at {at}: {str(error).splitlines()[0]}"
        ) from error
    _open.append(store)
    return store


_open: list[Store] = []


def announce(store: Store, run_dir: Path, resume: bool) -> None:
    """Rank 0: the run is ready to be read from its folder."""
    store.set("diptych/run", json.dumps({"run_dir": str(run_dir.resolve()), "resume": resume}))


def announced(store: Store) -> tuple[Path, bool] | None:
    """Every other rank: waits for rank 0's word; None where it ended without one."""
    try:
        said = json.loads(store.get("diptych/run"))
    except RuntimeError:  # torch's own classes for a lost connection and for waiting in vain
        return None
    return Path(said["run_dir"]), said["resume"]
