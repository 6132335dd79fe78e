"""All GPU checks in one command: parity with the CPU, steps compared with open_clip's, pairs per second from tars.

python benchmarks/gpu.py [MODEL …] [--batch 256] [--rounds 10] [--steps 60] [--compile] [--device cuda]

1. Loss and gradients of the small models in fp32 (TF32 off), on the device and on the CPU.
2. A training step in bf16-mixed, in alternating rounds with open_clip's: time, the fraction of the speed of a large
   matrix product, and peak memory. --compile adds both with torch.compile. Without open_clip, a line says so and only
   ours is timed.
3. `python src/train.py` on shards of generated 512 × 384 JPEGs: pairs per second and the fraction of time it waits.

Needs torch 2.10 or newer and no network. If a part can't run, a line says so and the rest continues. `--device cpu`
runs the same program without a GPU, only to test that it works.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
Step = Callable[[], object]
NEEDED = ("hydra", "omegaconf", "lightning", "webdataset")


def missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if find_spec(name) is None]


def parity(device: str) -> None:
    from step import apart, gradient, ours

    import diptych

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name in ("vit_tiny", "rn_tiny"):
        found = []
        for where in ("cpu", device):
            torch.manual_seed(0)
            model = diptych.create_model(name).train().to(where)
            loss, gradients = gradient(ours(model, 32, "fp32", where)[0], model)
            found.append((loss, {key: value.cpu() for key, value in gradients.items()}))
        (ours_loss, ours_gradient), (loss, gradients) = found
        print(
            f"{name:<10}loss {loss:.6f}, on the CPU {ours_loss:.6f}; gradient apart by"
            f" {apart(gradients, ours_gradient):.1e}",
            flush=True,
        )


def contenders(name: str, device: str, size: int, compiled: bool) -> Iterator[tuple[str, nn.Module, Step]]:
    """Yields what is timed: ours, ours with torch.compile, and the same two of open_clip."""
    from step import NAMES, ours, peer_package, theirs, whole

    import diptych
    from diptych.training.module import compile_towers

    torch.manual_seed(0)
    model = diptych.create_model(name).train().to(device)
    yield "ours", model, partial(whole, *ours(model, size, "bf16-mixed", device))
    if compiled:
        model = diptych.create_model(name).train().to(device)
        compile_towers(model)
        yield "ours, compiled", model, partial(whole, *ours(model, size, "bf16-mixed", device))
    try:
        if name not in NAMES:
            raise ImportError(f"it has no {name}")
        create = partial(peer_package().create_model, NAMES[name], precision="fp32", force_quick_gelu=True)
    except ImportError as error:
        print(f"open_clip is not available, only ours is timed: {error}")
        return
    peer = create().train().to(device)
    yield "open_clip", peer, partial(whole, *theirs(peer, size, "bf16-mixed", device))
    if compiled:
        peer = create().train().to(device)
        forward, optimiser = theirs(torch.compile(peer), size, "bf16-mixed", device)  # as its --torchcompile does
        yield "open_clip, compiled", peer, partial(whole, forward, optimiser)


def times(name: str, device: str, size: int, rounds: int, compiled: bool) -> None:
    from contender import alternating, timed
    from step import necessary, product

    steps: dict[str, Callable[[], float]] = {}
    memory, first, need = {}, {}, 0.0
    for who, model, action in contenders(name, device, size, compiled):
        gpu = device == "cuda"
        others = torch.cuda.memory_allocated() - held(model) if gpu else 0
        first[who] = timed(action)
        for _ in range(2):
            if gpu:
                torch.cuda.reset_peak_memory_stats()
            action()
        memory[who] = (torch.cuda.max_memory_allocated() - others) / 2**30 if gpu else 0.0
        need = need or necessary(model, size)
        steps[who] = partial(timed, action)
    multiply, operations = product("bf16", 8192 if device == "cuda" else 1024, device)
    seconds = alternating({**steps, "product": partial(timed, multiply)}, rounds)
    best = operations / statistics.median(seconds["product"])
    for who in steps:
        middle = statistics.median(seconds[who])
        print(
            f"{name:<10}batch {size:<5}{who:<20}{1000 * middle:8.1f} ms ({1000 * min(seconds[who]):.1f}–"
            f"{1000 * max(seconds[who]):.1f}) {size / middle:8,.0f} pairs/s {need / middle / best:5.0%} of"
            f" {best / 1e12:.0f} TFLOP/s {memory[who]:6.2f} GiB, first step {first[who]:.1f} s",
            flush=True,
        )


def held(model: nn.Module) -> int:
    """Bytes of a model before its first step."""
    return sum(x.nbytes for x in (*model.parameters(), *model.buffers()))


def from_tars(device: str, name: str, size: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pattern = shards(Path(folder) / "shards", max(4096, 4 * size))
        command = [
            sys.executable, str(HERE.parent / "src/train.py"), f"model={name}", "data=webdataset",
            f"data.shards={pattern}", f"data.batch_size={size}", f"trainer.max_steps={steps}", "logger=none",
            f"run_dir={folder}/run", f"trainer={'gpu' if device == 'cuda' else 'cpu'}", "trainer.log_every=10",
            f"data.workers={min(8, os.cpu_count() or 1)}", "trainer.devices=1",
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            print(f"training from tars failed: {(ended.stderr or ended.stdout).strip().splitlines()[-1]}")
            return
        lines = [json.loads(line) for line in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()][2:]
    pairs, waited = (
        statistics.median(line[f"train/{key}"] for line in lines) for key in ("pairs_per_second", "data_wait")
    )
    print(f"{name:<10}batch {size} from tars: {pairs:,.0f} pairs/s, {waited:.0%} of the time waiting for data")


def shards(folder: Path, count: int) -> str:
    """Writes eight tars of JPEGs of a usual web-crawl size, with some structure, and captions."""
    import webdataset
    from PIL import Image

    folder.mkdir()
    draw = np.random.default_rng(0)
    for shard in range(8):
        with webdataset.TarWriter(str(folder / f"{shard:06d}.tar")) as writer:
            for number in range(count // 8):
                coarse = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(coarse).resize((512, 384), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
                text = f"a picture of number {number} in shard {shard}"
                writer.write({"__key__": f"{shard}-{number:06d}", "jpg": buffer.getvalue(), "txt": text})
    return f"{folder}/{{000000..000007}}.tar"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["vit_b32", "vit_b16", "rn50"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--compile", action="store_true", help="also time both with torch.compile")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU was found: `--device cpu` runs the same program, slowly.")
    if lacking := missing(NEEDED):
        sys.exit(f"{', '.join(lacking)} can't be imported: install diptych first.")
    name = torch.cuda.get_device_name() if given.device == "cuda" else "the CPU"
    print(f"torch {torch.__version__}, {name}")
    parity(given.device)
    for model in given.models:
        times(model, given.device, given.batch, given.rounds, given.compile)
    if given.steps:
        from_tars(given.device, given.models[0], given.batch, given.steps)


if __name__ == "__main__":
    main()
