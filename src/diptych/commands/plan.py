"""The cost of a training, computed: `python src/plan.py model=vit_b32`."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diptych.base.terminal import say
from diptych.building.build import check_arguments


def plan(cfg: DictConfig) -> None:
    """Print the memory, communication and time of a step of this config on other machines, and the cost by ranks."""
    import torch

    from diptych.plan.counts import count
    from diptych.plan.layout import arrange, check_whole, precision_named
    from diptych.plan.step import step_of
    from diptych.plan.table import table

    check_whole("samples", cfg.samples)
    if cfg.tokens is not None:
        check_whole("tokens", cfg.tokens)
    for key in ("model", "loss", "trainer.strategy"):
        part = OmegaConf.select(cfg, key)
        check_arguments(key, OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part)
    precision, machine = precision_named(cfg.trainer.precision), instantiate(cfg.machine)
    loss, strategy = instantiate(cfg.loss, _convert_="all"), cfg.trainer.get("strategy") or {}
    shared = strategy.get("replicas"), strategy.get("activation_checkpointing", False)
    layout = arrange(cfg.ranks, cfg.data.batch_size, cfg.trainer.get("accumulate", 1), loss, *shared)
    with torch.device("meta"):
        model = instantiate(cfg.model, _convert_="all")
    counts = count(model, cfg.tokens or model.context_length, precision.half, layout.recompute)
    curve = [step_of(counts, other, precision, machine) for other in layout.alike(loss)]
    say(f"{HydraConfig.get().runtime.choices['model']}, {cfg.trainer.precision}", end=", ")
    say(table(counts, step_of(counts, layout, precision, machine), curve, machine, cfg.samples))
