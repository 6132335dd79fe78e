"""Which samples each step gets: on six layouts, with damaged samples, and after a resume on another layout.

python benchmarks/order.py [LOADER …]

Ours, lancedb's StreamingDataset, Megatron-Energon, MosaicML Streaming and webshart read the same 203 small pairs in
eight tars (lancedb and Streaming from their own copy), once intact and once with two pictures (1 %) cut in half. Each
decodes through its own hook, and skips failures if it has an option for that. A rank's batch is the global batch of 8
divided by the ranks. Shuffling is on, with a seed, if available. Where the number of streams, splits or canonical
nodes can be chosen, it is four.

sequences   number of different sequences of global batches over the six layouts; a batch is a set of samples here
steps       steps of a rank, over all layouts, with damaged samples; if ranks differ, synchronous training hangs
lost        samples of the epoch that were neither returned nor reported: the most over layouts, with damaged samples
resume      stopped at step 7 on 2 ranks with one worker each, resumed on one rank with two workers

The peers run in `.venv-bench` (`make bench-peers`).
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from webdataset import ShardWriter

from diptych.data.pixels.image import train_image
from diptych.data.stream.index import open_index
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-bench"
SAMPLES, SHARD, BATCH, STREAMS, HALT = 203, 26, 8, 4, 7
DAMAGED = (60, 140)
LAYOUTS = [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (4, 0)]  # ranks, workers per rank
EPOCH = SAMPLES // BATCH
VERSIONS = {
    "lancedb": "lancedb",
    "energon": "megatron-energon",
    "streaming": "mosaicml-streaming",
    "webshart": "webshart",
}
Keys = list[list[str]]
Case = dict[str, Any]


def write(folder: Path, damaged: tuple[int, ...]) -> Path:
    """Writes the pairs as tars; the pictures of `damaged` are cut in the middle."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    with ShardWriter(str(folder / "%03d.tar"), maxcount=SHARD, verbose=0) as sink:
        for number in range(SAMPLES):
            pixels = torch.randint(0, 256, (32, 32, 3), generator=draw, dtype=torch.uint8).numpy()
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG")
            picture = file.getvalue()
            picture = picture[: len(picture) // 2] if number in damaged else picture
            sink.write({"__key__": f"{number:06d}", "jpg": picture, "txt": f"caption {number}"})
    return folder


def image(data: bytes, seed: int) -> Tensor:
    return train_image(data, 32, seed=seed)


def no_tokens(texts: list[str]) -> Tensor:
    """Replaces the tokenizer: the order does not depend on the tokens."""
    return torch.zeros(len(texts), 1, dtype=torch.int64)


def ours(folder: Path, case: Case) -> Case:
    """The batches of each rank's loader. A run's report and metrics.json show what an epoch leaves out."""
    index, ranks, reported, remainder = open_index(str(folder / "*.tar")), [], 0, 0
    for rank in range(case["ranks"]):
        place = Place(rank, case["ranks"])
        stop = case.get("stop", EPOCH)
        stream = Stream(
            Order(index, seed=0, epoch=0, batch_size=BATCH, streams=STREAMS, block=20),
            Pairs(image, no_tokens),
            memory=0,
            start=case.get("state") or 0,
            stop=stop,
            place=place,
        )
        steps = Steps(stream, case["workers"], max_bad=0.05)
        ranks.append([[key.rsplit("/", 1)[-1] for key in batch.keys] for batch in steps])
        reported += sum(sum(shards.values()) for shards in steps.skipped.values())
        remainder = SAMPLES - EPOCH * BATCH
    return {"ranks": ranks, "reported": reported + remainder, "state": case.get("stop")}


def peer(name: str) -> Callable[[Path, Case], Case]:
    """Runs benchmarks/loaders/NAME_order.py in the peers' environment."""
    script = ROOT / f"benchmarks/loaders/{name}_order.py"

    def run(folder: Path, case: Case) -> Case:
        command = [str(PEERS / "bin/python"), str(script), str(folder), json.dumps(case)]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        lines = [line for line in done.stdout.splitlines() if line.startswith(('{"found"', '{"error"'))]
        if not lines:
            return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1]}
        told = json.loads(lines[-1])
        if "error" in told:
            return {"error": told["error"].rstrip(": ")}
        other = done.stderr + "".join(line for line in done.stdout.splitlines() if line not in lines)
        named = sum(f"{number:06d}" in other for number in DAMAGED)
        return {**told["found"], "reported": max(named, told["found"]["reported"])}

    return run


def together(ranks: list[Keys]) -> list[list[str]]:
    """The set of samples at each global step, up to the last step that all ranks reach."""
    return [sorted(key for keys in step for key in keys) for step in zip(*ranks, strict=False)]


def row(name: str, run: Callable[[Path, Case], Case], clean: Path, damaged: Path) -> list[str]:
    """One line of the table."""
    layouts = LAYOUTS if name != "webshart" else [(1, 0)]
    base = {"batch": BATCH, "streams": STREAMS, "damage": "skip", "epoch": EPOCH}
    found = {}
    for title, folder in (("clean", clean), ("damaged", damaged)):
        cases = [{**base, "ranks": ranks, "workers": workers} for ranks, workers in layouts]
        found[title] = [run(folder, case) for case in cases]
    cells = [
        _sequences(found["clean"]),
        _sequences(found["damaged"]),
        _steps(found["damaged"]),
        _lost(name, found["damaged"]),
    ]
    return [name, *cells, _resume(run, clean, found["clean"], {**base}, layouts)]


def _whole(found: list[Case]) -> list[Case]:
    return [each for each in found if "ranks" in each]


def _error(found: list[Case]) -> str:
    return next((f"stops: {each['error'][:60]}" for each in found if "error" in each), "")


def _sequences(found: list[Case]) -> str:
    whole = _whole(found)
    if not whole:
        return _error(found)
    different = len({json.dumps(together(each["ranks"])) for each in whole})
    failed = f", {len(found) - len(whole)} failed" if len(whole) < len(found) else ""
    return f"{different} of {len(whole)}{failed}"


def _steps(found: list[Case]) -> str:
    by_layout = [[len(steps) for steps in each["ranks"]] for each in _whole(found)]
    if not by_layout:
        return "–"
    uneven = sum(len(set(steps)) > 1 for steps in by_layout)
    every = [count for steps in by_layout for count in steps]
    spread = f"{min(every)}" if min(every) == max(every) else f"{min(every)} to {max(every)}"
    return f"{spread}, ranks differ on {uneven} layouts" if uneven else spread


def _lost(name: str, found: list[Case]) -> str:
    if name == "energon":
        return "no epoch: it repeats without end"
    whole = _whole(found)
    if not whole:
        return "–"
    seen = [len({key for steps in each["ranks"] for keys in steps for key in keys}) for each in whole]
    lost = [max(0, SAMPLES - count - each["reported"]) for count, each in zip(seen, whole, strict=True)]
    return str(max(lost)) if min(lost) == max(lost) else f"{min(lost)} to {max(lost)}"


def _resume(
    run: Callable[[Path, Case], Case], folder: Path, clean: list[Case], base: Case, layouts: list[Any]
) -> str:
    halt = (2, 1) if (2, 1) in layouts else layouts[0]
    on = (1, 2) if (1, 2) in layouts else layouts[0]
    stopped = run(folder, {**base, "ranks": halt[0], "workers": halt[1], "stop": HALT})
    whole = clean[layouts.index(halt)]
    if "error" in stopped or "error" in whole:
        return f"no state: {stopped.get('error', whole.get('error', ''))[:60]}"
    rest = run(folder, {**base, "ranks": on[0], "workers": on[1], "state": stopped["state"]})
    if "error" in rest:
        return f"refused: {rest['error'][:70]}"
    expected, got = together(whole["ranks"])[HALT:], together(rest["ranks"])
    length = min(len(expected), len(got))
    exact = length > 0 and got[:length] == expected[:length]
    same = "" if halt != on else " (on the same layout: it has one)"
    return ("exact" if exact else "other batches") + same


def version(name: str) -> str:
    if name == "ours":
        return "this checkout"
    if not PEERS.exists():
        return ""
    code = f"import importlib.metadata as m; print(m.version('{VERSIONS[name]}'))"
    done = subprocess.run([str(PEERS / "bin/python"), "-c", code], capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    names = sys.argv[1:] or ["ours", *VERSIONS]
    torch.set_num_threads(1)
    titles = [
        "loader",
        "sequences",
        "with 1 % damaged",
        "steps of a rank",
        "lost without a message",
        "resume on another layout",
    ]
    print(f"six layouts (ranks × workers): {', '.join(f'{ranks}×{workers}' for ranks, workers in LAYOUTS)}\n")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        clean, damaged = write(Path(temporary) / "clean", ()), write(Path(temporary) / "damaged", DAMAGED)
        for name in names:
            shown = VERSIONS.get(name)
            if shown and not version(name):
                print(
                    f"| {shown} | not installed: `make bench-peers` does it |{' |' * (len(titles) - 2)}",
                    flush=True,
                )
                continue
            cells = row(name, ours if name == "ours" else peer(name), clean, damaged)
            cells[0] = f"{shown or 'ours,'} {version(name)}"
            print(f"| {' | '.join(re.sub(r'[|]', '/', cell) for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
