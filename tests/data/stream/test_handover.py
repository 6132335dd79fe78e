"""Batches from workers to ranks through a shared memory that is too small, or stops being handed over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diptych.base.files import ROOT

# Batches of 64 × 3 × 24 × 24 bytes and their 64 × 24 tokens of 8: two of 122,880 wait and a third is handed over.
READS = """
import sys
from pathlib import Path
from streams import steps
if __name__ == "__main__":
    for batch in steps(Path(sys.argv[1]), workers=1, batch_size=64):
        print(batch.step, flush=True)
"""
NEEDED = (
    "UserError: /dev/shm has no room for the workers' batches: 368,640 bytes are needed, 3 parts of 122,880 a worker"
)


def in_small_memory(tmp_path: Path, shards: Path, size: int, first: str = "true") -> subprocess.CompletedProcess[str]:
    """The script with a /dev/shm of `size` bytes, in a mount namespace of its own."""
    (script := tmp_path / "reads.py").write_text(READS)
    inside = (
        f"mount -t tmpfs -o size={size} none /dev/shm && {first} && exec '{sys.executable}' '{script}' '{shards}'"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests/support")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["unshare", "-rm", "bash", "-c", inside], capture_output=True, text=True, env=environment, timeout=120
    )
    if re.search("unshare:|mount:", ended.stderr):
        pytest.skip("mount namespaces can't be made here")
    return ended


def test_a_small_shared_memory_is_named_with_the_bytes_needed(shards: Path, tmp_path: Path) -> None:
    ended = in_small_memory(tmp_path, shards, 200 << 10)
    assert NEEDED in ended.stderr and "of its 204,800 bytes are free" in ended.stderr and ended.stdout == ""


@pytest.mark.slow
def test_a_shared_memory_that_others_fill_is_named_too(shards: Path, tmp_path: Path) -> None:
    ended = in_small_memory(tmp_path, shards, 4 << 20, "head -c 4000000 /dev/zero > /dev/shm/others")
    assert NEEDED in ended.stderr, ended.stderr
    assert in_small_memory(tmp_path, shards, 4 << 20).stdout.count("\n") == 12


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGBUS], ids=["hangs", "dies"])
def test_a_training_ends_when_its_worker_hands_over_no_more(
    shards: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """One that hangs does not keep SIGTERM from ending the training; one that dies ends it with a sentence."""
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "src/train.py"), "model=vit_tiny", "model.text.width=16", "logger=none",
            "trainer=cpu", "trainer.precision=32-true", "data=webdataset", f"data.shards={shards}", "data.workers=1",
            "data.batch_size=16", "data.evaluate=null", "trainer.max_steps=100000", "trainer.checkpoint_every=2",
            "callbacks.progress.seconds=0", "run_dir=run",
        ],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert any(re.match(r"step ([4-9]|\d\d)", line) for line in process.stdout)  # the first checkpoint is on the disk
    (server,) = (pid for pid in children(process.pid) if b"forkserver" in command(pid))
    (worker,) = (pid for pid in children(server) if b"forkserver" in command(pid))
    os.kill(worker, sent)
    time.sleep(2)  # what it made before is trained on
    begin = time.monotonic()
    if sent == signal.SIGSTOP:
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    if sent == signal.SIGSTOP:
        assert process.returncode == 75 and "SIGTERM while waiting for data: what came after the last" in err, err
    else:
        assert process.returncode == 2 and "A worker of rank 0 was killed" in err, err
    assert time.monotonic() - begin < 30 and "Traceback" not in err
    assert not Path(f"/proc/{worker}").exists() or b"State:\tZ" in Path(f"/proc/{worker}/status").read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").open()]
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file() and steps == sorted(set(steps)) != []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
