"""Which samples Megatron-Energon hands out, in which order; benchmarks/order.py starts it and reads its JSON.

python energon_keys.py FOLDER BATCH keys WORKERS COUNT          the keys of COUNT batches
python energon_keys.py FOLDER BATCH save WORKERS COUNT STATE    as before, and its state after them
python energon_keys.py FOLDER BATCH load WORKERS COUNT STATE    the keys of COUNT batches from a state on
python energon_keys.py FOLDER BATCH count                       the samples that its index holds, or why there is none
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests/peers"))

import torch
from energon_loader import prepare
from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_savable_loader, get_train_dataset, stateless


class Keys(DefaultTaskEncoder):
    decoder = None

    @stateless
    def encode_sample(self, sample: Any) -> str:
        return str(sample.__key__)

    @stateless
    def batch(self, samples: list[str]) -> list[str]:
        return samples


def opened(folder: Path, batch: int, workers: int) -> Any:
    dataset = get_train_dataset(
        prepare(folder),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=batch,
        shuffle_buffer_size=20,
        max_samples_per_sequence=10,
        task_encoder=Keys(),
    )
    return get_savable_loader(dataset)


def taken(loader: Iterator[list[str]], count: int) -> list[list[str]]:
    """The keys of the next batches, without what energon puts before a key."""
    return [[key.rsplit("/", 1)[-1] for key in batch] for batch in islice(loader, count)]


def counted(folder: Path) -> int | dict[str, str]:
    try:
        info = json.loads((prepare(folder) / ".nv-meta/.info.json").read_text())
    except subprocess.CalledProcessError as error:
        return {"error": error.stderr.strip().splitlines()[-1]}
    return sum(info["shard_counts"].values())


def main() -> None:
    folder, batch, what, *rest = sys.argv[1:]
    if what == "count":
        print(json.dumps(counted(Path(folder))))
        return
    loader = opened(Path(folder), int(batch), int(rest[0]))
    if what == "load":
        try:
            loader.restore_state_rank(torch.load(rest[2], weights_only=False))
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
            return
    keys = taken(iter(loader), int(rest[1]))
    if what == "save":
        torch.save(loader.save_state_rank(), rest[2])
    print(json.dumps(keys))


if __name__ == "__main__":
    main()
