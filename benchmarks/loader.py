"""Images per second from web-size JPEG shards to batches of 224 px: ours, open_clip, Megatron-Energon and SPDL.

python benchmarks/loader.py [--quick] [--rounds 3] [--only ours] [--out FILE]

Each loader runs in its own process over the same shards and returns the same number of images with their tokens
(of open_clip's tokenizer, or ours). The first table is for one process on one core, without workers: images per
second of CPU time over a whole epoch, medians over interleaved rounds, and the ratio to open_clip. The second is for
one and two workers on two cores: images per second of wall time at steady state, seconds from the start of the
process to the first batch, also in the middle of an epoch, and memory. The notes under the tables list settings and
differences. `make bench-peers` installs the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import shards

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-bench"
FORMS = {
    "ours": ["resized", "resized fast", "square", "square fast"],
    "open_clip": ["defaults"],
    "energon": ["default", "tuned"],
    "spdl": ["bicubic", "accurate"],
}
SCALED = {"ours": "resized", "open_clip": "defaults", "energon": "tuned", "spdl": "accurate"}
PACKAGES = ("open_clip_torch", "megatron-energon", "spdl_io", "av", "torch", "torchvision", "pillow", "webdataset")
NOTES = """
ours       seeded global order over 8 streams; uint8 out, normalised on the device in training (not timed here)
open_clip  its get_wds_dataset and image_transform, defaults: scale 0.9-1, buffer of 5,000 (first 1,000); float out
energon    default: its decoder to float tensors, then torchvision on tensors; buffer 100 of decoded pictures
           tuned: decoder off, Pillow and open_clip's transform in encode_sample; buffer 1,000 of encoded ones; float
spdl       its tar reader and pipeline of threads (no processes: "workers" are threads); no shuffle of samples; crop
           and scale by FFmpeg's filter, uint8 NHWC out; bicubic: its default; accurate: exact rounding, full chroma
All but ours' "square" draw a box of 0.9-1 of the area and resize it, bicubic. FFmpeg is that of PyAV's wheel."""


class Runs:
    """Starts loaders as processes over one folder of shards and reads their output."""

    def __init__(self, folder: Path, images: int, batch: int) -> None:
        self.folder, self.images, self.batch = folder, images // batch * batch, batch
        self.log: list[dict[str, Any]] = []

    def __call__(self, loader: str, setting: str, *, cores: int = 1, **options: Any) -> Any:
        """A run's output, with the peak memory of its processes in MiB if it had workers."""
        python = ROOT / ".venv/bin/python" if loader == "ours" else PEERS / "bin/python"
        command = [str(python), str(ROOT / "benchmarks/loaders/run.py"), loader, setting, str(self.folder)]
        options = {"images": self.images, "batch": self.batch, "began": time.time(), **options}
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        process = subprocess.Popen(
            pinned(cores) + command,
            env=environment(loader),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        memory = Memory(process.pid) if options.get("workers") else None
        out, err = process.communicate()
        if process.returncode:
            raise SystemExit(f"{loader} {setting} failed: {err[-1500:]}")
        found = json.loads(out.splitlines()[-1])
        if memory:
            found |= memory.stop()
        self.log.append({"loader": loader, "setting": setting, "cores": cores, **options, "found": found})
        return found


class Memory:
    """Samples the memory of a session's processes once per second: the peak of the sum and of each, in MiB."""

    def __init__(self, session: int) -> None:
        self.session, self.peak, self.done = session, {"memory": 0.0, "memory_a_worker": 0.0}, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.done.wait(1.0):
            each = {int(path.name): self._unshared(path) for path in Path("/proc").glob("[0-9]*")}
            self.peak["memory"] = max(self.peak["memory"], sum(each.values()))
            each.pop(self.session, None)  # the process that receives the workers' batches
            self.peak["memory_a_worker"] = max(self.peak["memory_a_worker"], *each.values())

    def _unshared(self, process: Path) -> float:
        """MiB that the process alone uses; 0 if it is of another session, or has ended."""
        try:
            if os.getsid(int(process.name)) != self.session:
                return 0.0
            text = (process / "smaps_rollup").read_text()
        except OSError:
            return 0.0
        return sum(int(size) for size in re.findall(r"Private_(?:Clean|Dirty): +(\d+)", text)) / 1024

    def stop(self) -> dict[str, float]:
        self.done.set()
        self.thread.join()
        return self.peak


def pinned(cores: int) -> list[str]:
    """The prefix of a command that limits it to the first cores."""
    own = sorted(os.sched_getaffinity(0))[-cores:]
    return ["taskset", "-c", ",".join(map(str, own))] if shutil.which("taskset") else []


def environment(loader: str) -> dict[str, str]:
    added = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT / "src")}
    if loader == "spdl":
        added["LD_LIBRARY_PATH"] = str(ffmpeg())
    return {**os.environ, **added}


def ffmpeg() -> Path:
    """Links the FFmpeg libraries of PyAV's wheel under the names that SPDL expects: the wheel adds a hash to them."""
    links = PEERS / "ffmpeg"
    links.mkdir(exist_ok=True)
    for file in next(PEERS.glob("lib/python3*/site-packages/av.libs")).iterdir():
        plain = re.sub(r"-[0-9a-f]{8}(\.so\.\d+).*", r"\1", file.name)
        for name in (file.name, plain):
            if not (links / name).exists():
                (links / name).symlink_to(file.resolve())
    return links


def machine() -> dict[str, Any]:
    """The hardware that the numbers depend on, without the machine's name."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    site = next(PEERS.glob("lib/python3*/site-packages"))
    peers = {each.name: each.version for each in metadata.distributions(path=[str(site)]) if each.name in PACKAGES}
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "peers": peers,
        "ours": {name: metadata.version(name) for name in ("torch", "simplejpeg", "pillow", "webdataset")},
    }


def one_core(run: Runs, forms: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Loader and setting -> median images per second of CPU time; prints the table."""
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for loader, settings in forms.items():
            for setting in settings:
                rates.setdefault((loader, setting), []).append(run(loader, setting)["cpu_rate"])
    medians = {form: statistics.median(values) for form, values in rates.items()}
    base = medians.get(("open_clip", "defaults"), float("nan"))
    near = {form: run(*form, what="difference") for form in medians if form[0] in ("ours", "spdl")}
    print(f"\n{'':<11}{'':<14}{'images/s/core':>14}{'ratio':>7}{'lowest':>8}{'highest':>8}{'from Pillow':>13}")
    for (loader, setting), rate in medians.items():
        low, high = min(rates[loader, setting]), max(rates[loader, setting])
        off = f"{near[loader, setting]:.2f}" if (loader, setting) in near else "-"
        print(f"{loader:<11}{setting:<14}{rate:14.1f}{rate / base:7.2f}{low:8.1f}{high:8.1f}{off:>13}")
    print("ratio: to open_clip's; from Pillow: mean difference of a pixel from Pillow's result, of 255 levels")
    return {f"{loader} {setting}": rate for (loader, setting), rate in medians.items()}


def two_cores(run: Runs, forms: dict[str, str]) -> None:
    """Prints the table for one and two workers on two cores: speed, first batch, memory."""
    deep = run.images // run.batch - 6
    print(
        f"\n{'':<25}{'1 worker':>9}{'2 workers':>10}{'gain':>6}{'first s':>9}{'deep s':>8}{'MiB':>7}{'a worker':>9}"
    )
    for loader, setting in forms.items():
        one, found = (run(loader, setting, cores=2, workers=count) for count in (1, 2))
        slow, fast = one["wall_rate"], found["wall_rate"]
        first, memory, each = (found[name] for name in ("first", "memory", "memory_a_worker"))
        again = resumed(run, loader, setting, deep)
        print(f"{loader:<11}{setting:<14}{slow:9.1f}{fast:10.1f}{fast / slow:6.2f}{first:9.1f}", end="")
        print(f"{'-' if again is None else f'{again:.1f}':>8}{memory:7.0f}{f'{each:.0f}' if each else '-':>9}")
    print(f"images/s on 2 cores; first: seconds from start to a batch with 2 workers; deep: gone on at step {deep};")
    print("memory: unshared, all processes at their peak, and the largest worker (open_clip's and energon's share by")
    print("fork what they had imported; ours come from a fork server); -: it has none")


def resumed(run: Runs, loader: str, setting: str, step: int) -> float | None:
    """Seconds to the first batch of a process that resumes at `step`; None if the loader can't."""
    if loader == "ours":
        return float(run(loader, setting, cores=2, workers=2, start=step, images=2 * run.batch)["first"])
    if loader != "energon":
        return None
    with tempfile.TemporaryDirectory() as folder:
        state: dict[str, Any] = {"state": f"{folder}/state.pt", "cores": 2, "workers": 2}
        run(loader, setting, save_after=step, images=step * run.batch + 1, **state)
        return float(run(loader, setting, images=2 * run.batch, **state)["first"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a smoke test: 144 pictures, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/loader.json")
    args = parser.parse_args()
    if not PEERS.exists():
        raise SystemExit("The peers are not there: `make bench-peers` installs them.")
    about = machine()
    print(json.dumps(about))
    folder = shards.folder(args.quick)
    index = json.loads((folder / "index.json").read_text())["shards"]
    run = Runs(folder, sum(entry["samples"] for entry in index), batch=16 if args.quick else 48)
    size = sum(entry["bytes"] for entry in index) / run.images / 1024
    print(f"{run.images} images in {len(index)} shards, {size:.0f} KiB each")
    if "energon" in args.only:
        run("energon", "tuned", what="index")
    rates = one_core(run, {name: FORMS[name] for name in args.only}, 1 if args.quick else args.rounds)
    two_cores(run, {name: SCALED[name] for name in args.only})
    if "ours" in args.only:
        for setting in FORMS["ours"]:
            parts = run("ours", setting, what="shares")
            print(f"ours {setting:<13}" + "  ".join(f"{stage} {part:.0%}" for stage, part in parts.items()))
    print(NOTES)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(
        json.dumps({"machine": about, "images": run.images, "rates": rates, "runs": run.log}, indent=1)
    )


if __name__ == "__main__":
    main()
