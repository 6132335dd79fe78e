"""Who started this process, read from the environment as torchrun and SLURM set it."""

from __future__ import annotations

import pytest

from diptych.errors import UserError
from diptych.world import World, first_host, outside

SRUN = {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


def test_nothing_started_several() -> None:
    assert outside({}) is None
    assert outside(TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_WORLD_SIZE": "1"}) is None
    assert outside({"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}) is None  # a rank of our own


def test_torchrun_and_srun() -> None:
    assert outside(TORCHRUN) == World(3, 4, 2, "torchrun")
    world = outside(SRUN)
    assert world == World(5, 8, 4, "srun") and world.nodes == 2


def test_a_batch_script_is_no_task_of_srun() -> None:
    batch = {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"} | {"SLURM_PROCID": "0"}
    assert outside(batch | {"ENVIRONMENT": "BATCH"}) is None
    assert outside(SRUN | {"ENVIRONMENT": "BATCH"}) == World(5, 8, 4, "srun")


def test_unequal_nodes_are_refused() -> None:
    with pytest.raises(UserError, match="8 tasks on 3 nodes"):
        outside(SRUN | {"SLURM_NNODES": "3"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[003-010,12],cpu1", "gpu003"),
        ("node7", "node7"),
        ("a,b", "a"),
        ("n[1,4]-ib,m2", "n1-ib"),
        ("", "127.0.0.1"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
