"""Ranks started by us, by torchrun on one and on two nodes, and by srun (its variables, without SLURM): one folder,
one error, no process left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diptych.base.files import ROOT
from samples import write_shards

pytestmark = [pytest.mark.slow, pytest.mark.alone]

TRAIN = str(ROOT / "src/train.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of a few quick steps on two ranks."""
    index = write_shards(tmp_path_factory.mktemp("data") / "shards", [32, 8, 24, 16])
    return [
        "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=ddp", "trainer.accelerator=cpu",
        "trainer.precision=32-true", "logger=none", "data=webdataset", f"data.shards={index}", "data.workers=0",
        "data.batch_size=16", "trainer.log_every=1", "trainer.max_steps=4", "trainer.checkpoint_every=2",
        "callbacks.progress.seconds=0",
    ]  # fmt: skip


def start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT / "tests/support"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "FOLDER": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes(folder: Path) -> dict[int, str]:
    """pid -> command, of all that were started with this folder, ranks and their workers too."""
    found = {}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"FOLDER={folder}\0".encode() in environ.read_bytes():
                found[int(environ.parent.name)] = (environ.parent / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended, or is another user's
            continue
    return found


def all_end(folder: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while left := processes(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def at_step(process: subprocess.Popen[str], step: int) -> str:
    """What it printed until then."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(f"step {step}/"):
            return said
    raise AssertionError(said)


def curve(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train/loss"]) for line in lines]


@pytest.fixture(scope="module")
def ours(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The curve on ranks of our own launcher."""
    folder = tmp_path_factory.mktemp("ours")
    process = start([sys.executable, TRAIN, *small, "run_dir=run"], folder)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert [step for step, _ in curve(folder / "run")] == [1, 2, 3, 4]
    return curve(folder / "run")


def test_torchrun(small: list[str], ours: list[tuple[int, float]], tmp_path: Path) -> None:
    process = start([*TORCHRUN, "--nproc-per-node", "2", TRAIN, *small], tmp_path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    (run,) = (tmp_path / "runs/vit_tiny").iterdir()
    assert curve(run) == ours
    assert (run / "report.html").is_file() and output.count("run: ") == 1


def test_torchrun_on_two_nodes(small: list[str], ours: list[tuple[int, float]], tmp_path: Path) -> None:
    """Two agents on loopback, one rank each, as two machines with a shared folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agents = [
        start(
            [
                *TORCHRUN, "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1",
                "--master-addr", "127.0.0.1", "--master-port", str(port), TRAIN, *small,
            ],
            tmp_path,
        )
        for node in range(2)
    ]  # fmt: skip
    outputs = [agent.communicate()[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    (run,) = (tmp_path / "runs/vit_tiny").iterdir()
    assert curve(run) == ours


def test_the_variables_of_srun(small: list[str], ours: list[tuple[int, float]], tmp_path: Path) -> None:
    common = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}
    tasks = [
        start(
            [sys.executable, TRAIN, *small],
            tmp_path,
            **common,
            SLURM_STEP_NODELIST="localhost,other",
            SLURM_PROCID=str(rank),
            SLURM_LOCALID="0",
            SLURM_NODEID=str(rank),
        )
        for rank in range(2)
    ]
    outputs = [task.communicate()[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert outputs[1] == ""
    (run,) = (tmp_path / "runs/vit_tiny").iterdir()
    assert curve(run) == ours


def test_torchrun_and_the_config_must_agree(small: list[str], tmp_path: Path) -> None:
    for extra, message in (
        (["trainer.devices=4"], "trainer.devices=4, but torchrun has started 2 ranks"),
        (["-m", "seed=0,1"], "torchrun has started ranks for one run: type a sweep without it"),
    ):
        process = start([*TORCHRUN, "--nproc-per-node", "2", TRAIN, *small, *extra], tmp_path)
        output = process.communicate()[0]
        assert process.returncode != 0 and output.count(message) == 1
        all_end(tmp_path)


def test_a_sweep_of_runs_on_two_ranks(small: list[str], ours: list[tuple[int, float]], tmp_path: Path) -> None:
    """One folder, each job on two ranks, and no rank that begins a sweep of its own."""
    process = start([sys.executable, TRAIN, "-m", *small, "seed=0,1", "trainer.max_steps=4"], tmp_path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    (sweep,) = (tmp_path / "runs/sweep").iterdir()
    assert sorted(job.name for job in sweep.iterdir() if job.is_dir()) == ["0", "1"]
    assert curve(sweep / "0") == ours and curve(sweep / "1") != ours


Kill = Callable[[Path, int], int]


def a_rank(folder: Path, launcher: int) -> int:
    return max(pid for pid, command in processes(folder).items() if "diptych.commands.rank" in command)


def the_launcher(folder: Path, launcher: int) -> int:
    return launcher


def a_worker(folder: Path, launcher: int) -> int:
    servers = {pid for pid, command in processes(folder).items() if "forkserver" in command}
    return max(pid for pid in servers if parent(pid) in servers)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    ("victim", "sent", "message"),
    [
        (a_rank, signal.SIGKILL, "diptych: Rank 1 was killed by SIGKILL"),
        (a_rank, signal.SIGSTOP, "longer than trainer.timeout allows: rank 1 did not answer"),
        (a_worker, signal.SIGKILL, "was killed, perhaps because memory ran out"),
        (the_launcher, signal.SIGKILL, ""),
    ],
    ids=["rank", "hanging rank", "worker", "launcher"],
)
def test_no_process_outlives_another(
    small: list[str], tmp_path: Path, victim: Kill, sent: signal.Signals, message: str
) -> None:
    timeout = 0.1 if sent == signal.SIGSTOP else 10
    command = [*small, "data.workers=1", f"trainer.timeout={timeout}", "trainer.max_steps=10000", "run_dir=run"]
    process = start([sys.executable, TRAIN, *command], tmp_path)
    at_step(process, 3)
    os.kill(victim(tmp_path, process.pid), sent)
    begin = time.monotonic()
    output = process.communicate()[0]
    all_end(tmp_path, 30 - (time.monotonic() - begin))
    assert process.returncode not in (0, None)
    if message:
        assert message in output and output.count("diptych: ") == 1 and "Traceback" not in output


@pytest.mark.parametrize("launcher", ["ours", "torchrun"])
def test_the_first_error_is_shown_once_with_its_rank(small: list[str], tmp_path: Path, launcher: str) -> None:
    begun = [sys.executable, TRAIN] if launcher == "ours" else [*TORCHRUN, "--nproc-per-node", "2", TRAIN]
    fault = ["+callbacks.fault._target_=faults.RaiseAt", "+callbacks.fault.step=3", "+callbacks.fault.rank=1"]
    process = start([*begun, *small, *fault, "run_dir=run"], tmp_path)
    output = process.communicate()[0]
    assert process.returncode not in (0, None)
    assert output.count("ArithmeticError: two and two are five") == 1 and output.count("diptych: rank 1") == 1, output
    assert "closed by peer" not in output
    all_end(tmp_path)


@pytest.fixture(params=["ours", "torchrun"])
def running(request: pytest.FixtureRequest, small: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    begun = [sys.executable, TRAIN] if request.param == "ours" else [*TORCHRUN, "--nproc-per-node", "2", TRAIN]
    more = ["data.workers=1", "trainer.max_steps=10000", "trainer.checkpoint_every=10000", "run_dir=run"]
    yield start([*begun, *small, *more], tmp_path)
    all_end(tmp_path)


def test_a_signal_to_the_launcher_saves_on_all_ranks(running: subprocess.Popen[str], tmp_path: Path) -> None:
    at_step(running, 2)
    running.send_signal(signal.SIGTERM)
    output = running.communicate()[0]
    assert output.count(": saved; to resume, type python src/train.py resume=") == 1, output
    assert running.returncode not in (0, None)
    (step,) = (file.stem.removeprefix("step=") for file in (tmp_path / "run/checkpoints").glob("step=*.ckpt"))
    assert f"SIGTERM at step {step}: saved" in output


def test_a_signal_to_one_rank_or_to_everything_stops_all_at_one_step(small: list[str], tmp_path: Path) -> None:
    """Ctrl-C in a terminal and some clusters reach every process, workers too; a batch system may signal one rank."""
    more = ["data.workers=1", "trainer.max_steps=10000", "trainer.checkpoint_every=10000", "run_dir=run"]
    process = start([sys.executable, TRAIN, *small, *more], tmp_path)
    at_step(process, 2)
    os.kill(a_rank(tmp_path, process.pid), signal.SIGUSR1)
    output = process.communicate()[0]
    assert process.returncode == 75 and "SIGUSR1 at step" in output, output
    all_end(tmp_path)
    process = start([sys.executable, TRAIN, "resume=run"], tmp_path)
    at_step(process, int(output.partition(" at step ")[2].split(":")[0]) + 2)
    for pid in processes(tmp_path):
        os.kill(pid, signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == 130 and output.count("SIGINT at step") == 1 and "Traceback" not in output, output
    all_end(tmp_path)


def test_a_second_interrupt_ends_all_ranks_at_once(small: list[str], tmp_path: Path) -> None:
    """A rank is held, so the first can't be heeded: else a quick step might be over, and saved, before the second."""
    more = ["trainer.max_steps=10000", "trainer.checkpoint_every=10000", "run_dir=run"]
    process = start([sys.executable, TRAIN, *small, *more], tmp_path)
    at_step(process, 2)
    os.kill(a_rank(tmp_path, process.pid), signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):  # two signals at one moment are one
        process.wait(1)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == 130 and output.count("diptych: ") == 1, output
    assert "Ctrl-C again: ended at once" in output
    all_end(tmp_path)


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable: machines that can lose each other, on one disk."""
    names = (f"dia{os.getpid()}", f"dib{os.getpid()}")
    a, b = names
    made = subprocess.run(
        f"ip netns add {a} && ip netns add {b} && ip link add va netns {a} type veth peer name vb netns {b}"
        f" && ip -n {a} addr add 10.9.0.1/24 dev va && ip -n {b} addr add 10.9.0.2/24 dev vb"
        f" && for host in {a} {b}; do ip -n $host link set lo up; done"
        f" && ip -n {a} link set va up && ip -n {b} link set vb up",
        shell=True,
        capture_output=True,
    )
    try:
        if made.returncode:
            pytest.skip("network namespaces can't be made here")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_two_hosts_that_lose_each_other_end_by_themselves(
    small: list[str], two_hosts: tuple[str, str], tmp_path: Path
) -> None:
    more = ["trainer.max_steps=100000", "trainer.checkpoint_every=100000", "trainer.timeout=0.3", "run_dir=run"]
    agents = []
    for node, (host, device) in enumerate(zip(two_hosts, ("va", "vb"), strict=True)):
        meeting = ["--nnodes", "2", "--node-rank", str(node), "--master-addr", "10.9.0.1", "--master-port", "29555"]
        inside = ["ip", "netns", "exec", host, *TORCHRUN, *meeting, "--nproc-per-node", "1", TRAIN, *small, *more]
        agents.append(start(inside, tmp_path, GLOO_SOCKET_IFNAME=device))
    at_step(agents[0], 3)
    subprocess.run(["ip", "-n", two_hosts[0], "link", "set", "va", "down"], check=True)
    outputs = [agent.communicate(timeout=90)[0] for agent in agents]
    assert all(agent.returncode for agent in agents)
    told = "waited for the others longer than trainer.timeout allows|lost its connection to another rank"
    assert len(re.findall(told, "".join(outputs))) == 1, outputs
    all_end(tmp_path)
