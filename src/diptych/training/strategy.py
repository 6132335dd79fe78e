"""How ranks share a model: every rank holds all of it (DDP), or a shard (FSDP2); their checkpoints are alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from diptych.errors import UserError
from diptych.training import parallel
from diptych.training.module import ContrastiveModule


def replicated() -> DDPStrategy:
    """The whole model on every rank, gradients averaged. They live in the buckets that are sent, not beside them."""
    return DDPStrategy(gradient_as_bucket_view=True)


class FullySharded(ModelParallelStrategy):
    """Parameters, gradients and optimiser state cut over ranks (`diptych.training.parallel`).

    replicas: copies of the model; ranks are divided among them, so that gathers stay within one (HSDP: a node, as a
        rule) and gradients alone are averaged over copies
    activation_checkpointing: keep one tensor a block for the backward pass and compute the block again there

    Checkpoints are one file in the format of every other run: state by its place among the optimiser's parameters,
    which doesn't depend on the strategy.
    """

    def __init__(self, replicas: int = 1, activation_checkpointing: bool = False) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self.replicas, self.activation_checkpointing = replicas, activation_checkpointing

    def setup_environment(self) -> None:
        ranks = self.num_nodes * self.num_processes
        self._data_parallel_size, self._tensor_parallel_size = ranks, 1
        super().setup_environment()

    def mesh(self) -> DeviceMesh:
        """[ranks], or [replicas, ranks of each]. Raises UserError for replicas that don't divide the ranks."""
        if self.replicas == 1:
            return cast(DeviceMesh, self.device_mesh["data_parallel"])
        check_replicas(self.replicas, self.world_size)
        shape = (self.replicas, self.world_size // self.replicas)
        return init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicate", "shard"))

    def setup(self, trainer: L.Trainer) -> None:
        module = self.lightning_module
        assert isinstance(module, ContrastiveModule)
        self.precision_plugin.convert_module(module)  # before: a sharded module's dtype can't be changed
        low = torch.bfloat16 if trainer.precision == "bf16-mixed" else None
        parallel.shard(module.model, self.mesh(), low, self.activation_checkpointing)
        parallel.average_gradients(module.loss.parameters())
        super().setup(trainer)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """On rank 0 the whole model, as one process has it; every rank calls it."""
        assert self.lightning_module is not None
        return parallel.joined(self.lightning_module.state_dict(), keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """On rank 0 the whole state; every rank calls it."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return parallel.joined(inner.state_dict(), keep=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: parallel.divided(x, own.get(name, x)) for name, x in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_divided_state(optimizer, state))


def _divided_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The whole state of one process -> that of this rank's shards."""
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


def check_replicas(replicas: int, ranks: int) -> None:
    """Raises UserError for replicas that don't divide the ranks."""
    if replicas < 1 or ranks % replicas:
        raise UserError(
            f"trainer.strategy.replicas={replicas} does not divide the {ranks} ranks: give a divisor of them."
        )
