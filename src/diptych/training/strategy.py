"""How ranks share a model: every rank has all of it (DDP) or a shard (FSDP2). Both write the same checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from diptych.training import checkpoints, parallel
from diptych.training.module import ContrastiveModule

PATIENCE = timedelta(minutes=30)


class Replicated(DDPStrategy):
    """The whole model on every rank, with gradients averaged. The gradients are stored in the buckets that are sent.

    timeout: how long a rank waits for the others
    activation_checkpointing: as of `FullySharded`; it also works in a run's only process
    """

    def __init__(self, timeout: timedelta = PATIENCE, activation_checkpointing: bool = False) -> None:
        super().__init__(gradient_as_bucket_view=True, timeout=timeout)
        self.activation_checkpointing = activation_checkpointing


class Recompute(L.Callback):
    """Lets every block be computed again in the backward pass; Lightning calls it before a strategy wraps the
    model."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for block in parallel.blocks_of(pl_module):
            parallel.recomputed(block)


class FullySharded(ModelParallelStrategy):
    """Parameters, gradients and optimiser state sharded over ranks (`diptych.training.parallel`).

    timeout: how long a rank waits for the others
    replicas: number of copies of the model, among which the ranks are divided (HSDP). Parameters are only gathered
        within a copy, which is usually one node, and only gradients are averaged over copies
    activation_checkpointing: keep one tensor of each block for the backward pass and compute the block again there
    sharded_checkpoints: each rank writes its shards to a folder (`CheckpointFolders`); otherwise rank 0 gathers all
        and writes one file, as in every other run

    Both store the optimiser's state by the order of its parameters, which doesn't depend on the strategy. So a run
    can resume with any strategy.
    """

    def __init__(
        self,
        timeout: timedelta = PATIENCE,
        replicas: int = 1,
        activation_checkpointing: bool = False,
        sharded_checkpoints: bool = False,
    ) -> None:
        super().__init__(save_distributed_checkpoint=sharded_checkpoints, timeout=timeout)
        self.replicas, self.activation_checkpointing = replicas, activation_checkpointing
        self.sharded_checkpoints = sharded_checkpoints

    def setup_environment(self) -> None:
        ranks = self.num_nodes * self.num_processes
        self._data_parallel_size, self._tensor_parallel_size = ranks, 1
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        module = self.lightning_module
        assert isinstance(module, ContrastiveModule)
        mesh = parallel.mesh_of(self.root_device.type, self.world_size, self.replicas)
        parallel.shard(module.model, mesh, module.tower_dtype)
        module.tower_dtype = None  # FSDP already gathers and computes in it
        parallel.average_gradients(module.loss.parameters())
        super().setup(trainer)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's shards; or, on rank 0, the whole model. Every rank calls this."""
        assert self.lightning_module is not None
        return self._gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Like `lightning_module_state_dict`."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._gathered(inner.state_dict())

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        return state if self.sharded_checkpoints else parallel.joined(state, keep=self.is_global_zero)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        if self.sharded_checkpoints or self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """All of a file, mapped into memory; of a folder only this rank's shards."""
        path = Path(checkpoint_path)
        if not path.is_dir():
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        assert self.lightning_module is not None
        tensors: dict[str, Tensor] = {f"state_dict.{k}": x for k, x in self.lightning_module.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            tensors |= {f"optimizer_states.{number}.state.{place}": x for place, x in enumerate(parameters)}
        return checkpoints.read(path, lambda name: tensors.get(name, tensors.get(name.rpartition(".")[0])))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: parallel.divided(x, own.get(name, x)) for name, x in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_divided_state(optimizer, state))


def _divided_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of the whole optimiser -> the state of this rank's shards."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = [place for group in state["param_groups"] for place in group["params"]]
    like: dict[int, Tensor] = dict(zip(places, parameters, strict=True))
    return state | {
        "state": {
            place: {
                name: parallel.divided(x, like[place]) if isinstance(x, Tensor) else x for name, x in entries.items()
            }
            for place, entries in state["state"].items()
        }
    }
