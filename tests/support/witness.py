"""A callback that records what each rank trains on: `callbacks.witness._target_=witness.Witness`."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch

from diptych.base.batch import Batch


class Witness(L.Callback):
    """Appends {"step", "rank", "keys", "pixels", "tokens", "draw"} to $WITNESS: pixels and tokens as hashes of each
    row, a draw from the global generator."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        line: dict[str, Any] = {"step": batch.step, "rank": trainer.global_rank, "keys": batch.keys}
        line["pixels"] = [_digest(row) for row in batch.images]
        line["tokens"] = [_digest(row) for row in batch.tokens]
        line["draw"] = torch.rand(()).item()
        with Path(os.environ["WITNESS"]).open("a") as file:
            file.write(json.dumps(line) + "\n")  # one write, well below a pipe's size: lines of ranks don't mix


def _digest(row: Any) -> str:
    return hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16]


def seen(file: Path) -> dict[int, dict[str, list[str]]]:
    """step -> the global batch: keys, pixels and tokens of all ranks, in rank order."""
    batches: dict[int, dict[str, list[str]]] = {}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in sorted(lines, key=lambda line: (line["step"], line["rank"])):
        batch = batches.setdefault(line["step"], {"keys": [], "pixels": [], "tokens": []})
        for name in batch:
            batch[name] += line[name]
    return batches
