"""The state of every global random generator, of every rank, in the checkpoint."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch

from diptych.launch import distributed


class Generators(L.Callback):
    """A resumed rank draws on as if nothing had happened. On another number of ranks each begins from the run's
    seed: nothing of ours draws from global generators in mid-training, but a loss or a tower of a user's may.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["generators"] = distributed.gather_objects(states(pl_module.device))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._states = checkpoint.get("generators", [])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before the first batch: what is done to it may draw. The loader's start draws from a generator of its own.
        if len(self._states) == trainer.world_size:
            restore(self._states[trainer.global_rank], pl_module.device)
        self._states = []


def states(device: torch.device) -> dict[str, Any]:
    """Of torch (the CPU's and the device's generator), Python and NumPy, as tensors and plain data."""
    numpy: Any = np.random.get_state(legacy=True)
    _, keys, *rest = numpy
    return {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), *rest],
    }


def restore(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["device"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["device"].cpu(), device)
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
