"""Seconds until the program answers: `--help`, an error, and the demo's first step, each in a new process.

python benchmarks/startup.py [--rounds 5]

For comparison: `import open_clip` from `.venv-peers` and `import torch`, also from the page cache. The first round
warms that cache and isn't counted. The first step's time is from the start of the process to the line that the run
prints after that step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TRAIN = [sys.executable, str(HERE.parent / "src/train.py")]
PEERS = str(HERE.parent / ".venv-peers/bin/python")
OPENINGS = f"import sys; sys.path.append({str(HERE.parent / 'tests/peers')!r}); import openings, open_clip"
COMMANDS = {
    "python src/train.py --help": [*TRAIN, "--help"],
    "python src/train.py model=none": [*TRAIN, "model=none"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "python -c 'import open_clip'": [PEERS, "-c", OPENINGS],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True)
    return time.perf_counter() - start


def until_first_step(folder: str) -> float:
    start = time.perf_counter()
    command = [*TRAIN, "recipe=demo", "logger=none", f"run_dir={folder}/run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 1/"):
                found = time.perf_counter() - start
                process.kill()
                return found
    raise RuntimeError("the demo ended before its first step")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {name: [] for name in [*COMMANDS, "the demo's first step"]}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            found[name].append(seconds(command))
        with tempfile.TemporaryDirectory() as folder:
            found["the demo's first step"].append(until_first_step(folder))
        if not number:
            found = {name: [] for name in found}
    for name, times in found.items():
        print(f"{name:<34}{statistics.median(times):6.2f} s ({min(times):.2f}–{max(times):.2f})")


if __name__ == "__main__":
    main()
