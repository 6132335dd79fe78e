"""What a training's config may say, checked before any data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from diptych.base.errors import NotTaken, UserError
from diptych.base.terminal import meant
from diptych.building.arguments import check_arguments
from diptych.commands.overrides import LIGHTNINGS_ACCUMULATION
from diptych.commands.resolvers import budget, check_name, is_whole, vocab_size
from diptych.launch.world import nodes, outside


def validate(cfg: DictConfig) -> None:
    """Refuse what can't be right, before any data is read. Raises UserError with what to change."""
    import torch

    from diptych.data.datamodule import check_layout
    from diptych.data.sets.held_out import check as check_held_out

    if "_target_" not in cfg.data:
        raise UserError("This data set is for evaluation alone: take data=emoji or data=webdataset to train.")
    _check_missing(cfg)
    check_name(cfg.name)
    if not is_whole(cfg.seed) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed} must be a whole number from 0 to {2**32 - 1}.")
    if "accumulate_grad_batches" in cfg.trainer:
        raise UserError(LIGHTNINGS_ACCUMULATION)
    for key in ("data.batch_size", "data.streams", "trainer.devices", "trainer.max_steps"):
        value = OmegaConf.select(cfg, key)
        if not is_whole(value) or value < 1:
            raise UserError(f"{key}={value} must be a whole number of at least 1.")
    check_parts_of_training(cfg)
    if cfg.samples is not None and cfg.trainer.max_steps != budget(cfg.samples, cfg.data.batch_size, 0):
        raise UserError(
            f"samples={cfg.samples} and trainer.max_steps={cfg.trainer.max_steps} are two budgets: give one."
        )
    check_max_bad(cfg.data.max_bad)
    check_evaluate(cfg.data)
    check_held_out(cfg.data.get("validation", 0))
    text = cfg.model.text
    if "vocabulary" in text and (ids := vocab_size(text.vocabulary)) != text.vocab_size:
        raise UserError(
            f"model.text.vocab_size={text.vocab_size} does not fit model.text.vocabulary={text.vocabulary} of"
            f" {ids} ids: leave model.text.vocab_size out, it follows from the file."
        )
    world = outside()
    if world is not None and cfg.trainer.devices != world.local_size:
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}, but {world.launcher} has started {world.local_size} ranks on"
            f" each machine: take trainer.devices={world.local_size}, or leave it out."
        )
    ranks = cfg.trainer.devices * nodes()
    check_layout(cfg.data.batch_size, cfg.data.streams, ranks, cfg.data.workers)
    if cfg.trainer.keep < 1:
        raise UserError(f"trainer.keep={cfg.trainer.keep} must be at least 1: it is a number of checkpoints.")
    _check_accumulation(cfg, ranks)
    if cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer=gpu finds no GPU on this machine: take trainer=cpu, or trainer=auto.")
    _check_sharding(cfg, ranks)


def check_max_bad(share: object) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise UserError(f"data.max_bad={share} must be a number: a share from 0 to less than 1.")


def check_evaluate(data: DictConfig) -> None:
    """What `data.evaluate` says can be the path of a set, a list of some, or a reader's config."""
    from diptych.data.sets.opening import KINDS, check_path

    node = data.get("evaluate")
    if node is None or (isinstance(node, DictConfig) and "_target_" in node):
        return
    paths = [node] if isinstance(node, str) else node
    if not isinstance(paths, ListConfig | list) or not len(paths):
        raise UserError(f"data.evaluate={node} is neither a path nor a list of some: give {KINDS}, or null for none.")
    for path in paths:
        if isinstance(path, str):
            check_path(path)
        elif not (isinstance(path, DictConfig) and "_target_" in path):
            raise UserError(f"data.evaluate names {path}, which is no path: give {KINDS}.")


def _check_sharding(cfg: DictConfig, ranks: int) -> None:
    """What needs whole matrices or a whole copy of the model, where a rank holds a shard."""
    strategy = OmegaConf.select(cfg, "trainer.strategy")
    if strategy is None or "replicas" not in strategy:
        return
    replicas = strategy.replicas
    if not isinstance(replicas, int) or replicas < 1 or ranks % replicas:
        raise UserError(f"trainer.strategy.replicas={replicas} does not divide the {ranks} ranks: give a divisor.")
    if cfg.trainer.precision == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed needs a gradient scaler, and torch's doesn't see what overflows in a shard of"
            " trainer=fsdp: take bf16-mixed or bf16-true, or trainer=ddp."
        )
    if cfg.optim._target_.endswith(".Muon"):
        raise UserError(
            "optim=muon orthogonalises whole matrices, of which trainer=fsdp gives a rank a part:"
            " take optim=adamw, or trainer=ddp."
        )
    if any(callback and "WeightAveraging" in callback._target_ for callback in cfg.callbacks.values()):
        raise UserError(
            "callbacks=ema averages a whole copy of the model, which trainer=fsdp gives no rank:"
            " take callbacks=default, or trainer=ddp."
        )


def _check_accumulation(cfg: DictConfig, ranks: int) -> None:
    callbacks = [callback for callback in cfg.callbacks.values() if callback]
    if "accumulate_grad_batches" in cfg.trainer or any(
        str(callback.get("_target_")).endswith("GradientAccumulationScheduler") for callback in callbacks
    ):
        raise UserError(LIGHTNINGS_ACCUMULATION)
    batch_size, parts = cfg.data.batch_size, cfg.trainer.get("accumulate", 1)
    if not isinstance(parts, int) or parts < 1:
        raise UserError(f"trainer.accumulate={parts} must be a whole number of at least 1.")
    limit = cfg.trainer.get("nonfinite_steps", 0)
    if not isinstance(limit, int) or limit < 0:
        raise UserError(f"trainer.nonfinite_steps={limit} must be a whole number, 0 to stop at the first.")
    share = batch_size // ranks
    if share % parts:
        near = max((n for n in range(1, parts) if share % n == 0), default=1)
        more = next((n for n in range(parts, share + 1) if share % n == 0), share)
        raise UserError(
            f"A rank's {share} of data.batch_size={batch_size} can't be divided by trainer.accumulate={parts}:"
            f" take trainer.accumulate={' or '.join(map(str, dict.fromkeys((near, more))))},"
            f" or data.batch_size={max(1, round(share / parts)) * parts * ranks}."
        )


def split_pretrained(model: dict[str, Any]) -> tuple[dict[str, Any], dict[str | None, str]]:
    """A model's config without `compile` and its three keys `pretrained`, and the latters' values by tower (None: the
    whole model).

    What stays describes the model for good: a checkpoint must not need the file that its run started from.
    """
    described = {key: value for key, value in model.items() if key not in ("compile", "pretrained")}
    paths: dict[str | None, str | None] = {None: model.get("pretrained")}
    for tower in ("image", "text"):
        described[tower] = {key: value for key, value in model[tower].items() if key != "pretrained"}
        paths[tower] = model[tower].get("pretrained")
    return described, {tower: path for tower, path in paths.items() if path is not None}


def check_start(cfg: DictConfig) -> None:
    """Of a new run: the weights that it starts from are there, and none that are random would be frozen."""
    keys = {None: "model.pretrained", "image": "model.image.pretrained", "text": "model.text.pretrained"}
    paths = {tower: OmegaConf.select(cfg, key) for tower, key in keys.items()}
    for tower, path in paths.items():
        if path is not None and not Path(path).exists():
            raise UserError(f"{keys[tower]}={path} does not exist: {meant(keys[tower], Path(path))}")
    for tower in ("image", "text"):
        choice = OmegaConf.select(cfg, f"finetune.{tower}")
        if choice not in (None, "all") and not paths[None] and not paths[tower]:
            raise UserError(
                f"finetune.{tower}={choice} would freeze random weights:"
                f" give model.pretrained=PATH, or {keys[tower]}=PATH."
            )


NEEDED = ("model", "data", "loss", "optim", "schedule", "trainer")


def check_parts_of_training(cfg: DictConfig) -> None:
    """Each part of a run takes the keys that it is given, and their values."""
    for key in NEEDED:
        if not isinstance(cfg.get(key), DictConfig) or "_target_" not in cfg[key]:
            raise UserError(f"{key}={cfg.get(key)} builds nothing: take a choice of {key} (`--help` lists them).")
    from diptych.building.targets import UNBUILT

    whole: Any = OmegaConf.to_container(cfg, resolve=True)
    parts = {key: whole.get(key) for key in (*NEEDED, "finetune", "logger", "callbacks")}
    parts["model"] = split_pretrained(whole["model"])[0]
    parts["data"] = {key: value for key, value in whole["data"].items() if key not in (*UNBUILT, "evaluate")}
    parts["trainer"] = {key: value for key, value in whole["trainer"].items() if key != "accumulate"}
    if parts["logger"] and "_target_" not in parts["logger"]:
        key = f"logger.{next(iter(parts['logger']))}"
        raise NotTaken(key, f"{key} is read by no logger", ", or take logger=wandb")
    for key, part in parts.items():
        check_arguments(key, part)


def _check_missing(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]} must be given: type {missing[0]}=VALUE.")
