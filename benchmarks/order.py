"""Which samples come in which order: ours and Megatron-Energon's over the same shards, side by side.

python benchmarks/order.py

Three questions. How many different sequences of batches do different layouts give? Does a run that is saved with two
workers go on with one? And what becomes of a tar that was cut before it was indexed? Energon runs in `.venv-bench`
(`make bench-peers`), single rank, as its documentation starts it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import shards
import torch
from torch import Tensor

from diptych.data.files import Files
from diptych.data.index import open_index, scan
from diptych.data.shards import Sample
from diptych.data.steps import Steps
from diptych.data.stream import Place, Stream
from diptych.errors import UserError

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-bench"
BATCH, STREAMS, STEPS, BLOCK, HALT = 8, 4, 36, 20, 7
LAYOUTS = [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (4, 0)]
WORKERS = [0, 1, 2, 3]
Keys = list[list[str]]


def nothing(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
    """Stands for image and caption: the order is the same whatever is made of a sample."""
    return torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)


def ours(folder: Path, ranks: int, workers: int, start: int = 0) -> Keys:
    """The keys of each global batch: what every rank's own loader hands over, put together."""
    index = open_index(str(folder / "index.json"))
    by_rank = []
    for rank in range(ranks):
        stream = Stream(
            index,
            nothing,
            seed=0,
            batch_size=BATCH,
            streams=STREAMS,
            start=start,
            stop=STEPS,
            place=Place(rank, ranks),
            memory=0,
            block=BLOCK,
        )
        by_rank.append([batch.keys for batch in Steps(stream, workers, max_bad=0.0)])
    return [[key for keys in step for key in keys] for step in zip(*by_rank, strict=True)]


def energon(folder: Path, *what: object) -> Any:
    """What energon_keys.py prints."""
    script = ROOT / "benchmarks/loaders/energon_keys.py"
    command = [str(part) for part in (PEERS / "bin/python", script, folder, BATCH, *what)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"energon {what} failed: {done.stderr[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def different(sequences: list[Keys]) -> int:
    return len({json.dumps(keys) for keys in sequences})


def gone_on(whole: Keys, rest: Keys | dict[str, str]) -> str:
    """What a resumed run handed over, against the run that went through."""
    if isinstance(rest, dict):
        return rest["error"].rstrip(": ").splitlines()[0]
    return "exact" if rest == whole[HALT : HALT + len(rest)] else "other batches"


def cut(folder: Path, into: Path, beyond: int) -> Path:
    """A copy of the tars of which one ends `beyond` bytes after the first half of its samples; the cut one."""
    into.mkdir()
    for tar in folder.glob("*.tar"):
        shutil.copy(tar, into)
    index, number = open_index(str(folder / "index.json")), 3
    offsets = index.offsets(number, Files())
    assert offsets is not None
    shortened = into / Path(index.shards[number].path).name
    os.truncate(shortened, int(offsets[len(offsets) // 2]) + beyond)
    return shortened


def indexed(shard: Path) -> str:
    """What our indexing says to a shard."""
    try:
        found, _ = scan(str(shard))
    except UserError as error:
        return str(error).replace(f"{shard.parent}/", "")
    return f"indexed with {found.samples} samples"


def counted(found: int | dict[str, str], whole: int) -> str:
    """What energon's indexing says to the set."""
    if isinstance(found, dict):
        return found["error"]
    return f"{found} of {whole} samples indexed, no word of the other {whole - found}"


def main() -> None:
    if not PEERS.exists():
        raise SystemExit("The peers are not there: `make bench-peers` installs them.")
    torch.set_num_threads(1)
    folder = shards.folder(quick=True)
    mine = [ours(folder, ranks, workers) for ranks, workers in LAYOUTS]
    theirs = [energon(folder, "keys", workers, STEPS) for workers in WORKERS]
    print(f"{'sequences of batches':<32}ours     {different(mine)} over {len(mine)} layouts of ranks × workers")
    print(f"{'':<32}         {', '.join(f'{ranks}×{workers}' for ranks, workers in LAYOUTS)}")
    print(f"{'':<32}energon  {different(theirs)} over {len(theirs)}: {', '.join(map(str, WORKERS))} workers")
    with tempfile.TemporaryDirectory() as temporary:
        state = Path(temporary) / "state.pt"
        energon(folder, "save", 2, HALT, state)
        resumed = {workers: energon(folder, "load", workers, 10, state) for workers in (2, 1)}
        print(f"{'2 workers, resumed with 2':<32}ours     {gone_on(mine[0], ours(folder, 1, 2, HALT))}")
        print(f"{'':<32}energon  {gone_on(theirs[2], resumed[2])}")
        print(f"{'2 workers, resumed with 1':<32}ours     {gone_on(mine[0], ours(folder, 1, 1, HALT))}")
        print(f"{'':<32}energon  {gone_on(theirs[2], resumed[1])}")
        whole = open_index(str(folder / "index.json")).samples
        for name, beyond in {"a tar cut between two samples": 0, "a tar cut inside a picture": 5_000}.items():
            shard = cut(folder, Path(temporary) / str(beyond), beyond)
            print(f"{name:<32}ours     {indexed(shard)}")
            print(f"{'':<32}energon  {counted(energon(shard.parent, 'count'), whole)}")


if __name__ == "__main__":
    main()
