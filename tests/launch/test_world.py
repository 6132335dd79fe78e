"""Who started this process, read from the environment as torchrun and SLURM set it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.launch.world import World, first_host, meet, outside, refuse_leftovers

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


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, r"^WORLD_SIZE=2 in the environment .* `unset WORLD_SIZE`"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "WORLD_SIZE=2 .* `unset RANK WORLD_SIZE MASTER_ADDR`"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK=1 and WORLD_SIZE=2"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1"),
        ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE=8"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE= in"),
        ({"RANK": "-1"}, "RANK=-1"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID=1 .* `unset SLURM_PROCID`"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "SLURM_PROCID=1"),
        (SRUN | {"SLURM_NTASKS": "two"}, "SLURM_NTASKS=two is not a whole number"),
        (SRUN | {"SLURM_PROCID": "8"}, "rank 8 of 8"),
        (SRUN | {"SLURM_NNODES": "0"}, "SLURM_NNODES=0"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a whole number"),
        (TORCHRUN | {"RANK": "4"}, "rank 4 of 4"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "0"}, "0 on each machine"),
        ({"TORCHELASTIC_RUN_ID": "none"}, "RANK is missing .* `unset TORCHELASTIC_RUN_ID`"),
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": "0"}, "WORLD_SIZE is missing"),
    ],
    ids=str,
)
def test_variables_that_nobody_set_for_this_process_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        refuse_leftovers(environment)


def test_variables_of_one_process_and_of_an_allocation_are_none_of_several() -> None:
    allocation = {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}
    for environment in (
        {},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        allocation,
        allocation | {"SLURM_PROCID": "0"},
    ):
        refuse_leftovers(environment)
        assert outside(environment) is None
    refuse_leftovers(SRUN)
    refuse_leftovers(TORCHRUN)


@pytest.mark.parametrize("command", ["train", "evaluate", "embed", "plan", "pack", "convert"])
def test_every_command_refuses_them_before_anything_starts(
    cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = cli(command)
    assert ended.code == 2 and ended.err.startswith("diptych: WORLD_SIZE=2 in the environment"), ended.err
    assert ended.err.count("\n") == 1 and ended.out == ""


def test_an_address_that_nobody_knows_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UserError, match=r"did not meet the others at .*nowhere\.invalid:29500"):
        meet(World(1, 2, 2, "torchrun"))


def test_a_torchrun_that_is_gone_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that a shell has kept: torchrun's own store would listen where they say."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="Connection refused"):
        meet(World(1, 2, 2, "torchrun"))


def test_a_machine_without_loopback_is_told_so() -> None:
    """In a network namespace of its own, whose loopback is down."""
    code = "from diptych.commands.rank import _free_port; _free_port()"
    path = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(["unshare", "-rn", sys.executable, "-c", code], capture_output=True, text=True, env=path)
    if "unshare" in ended.stderr:
        pytest.skip("network namespaces can't be made here")
    assert "UserError: The ranks meet at 127.0.0.1, and this machine can't connect to it" in ended.stderr


@pytest.mark.parametrize("command", ["pack", "convert", "plan"])
def test_a_command_for_one_process_is_not_run_by_several(
    cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    ended = cli(command)
    assert ended.code == 2 and f"has started 4 ranks, and {command} is for one process" in ended.err
