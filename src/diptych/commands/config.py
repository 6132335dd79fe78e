"""Check the config of a training before any data is read.

Each part is compared with the signature of its class (`check_arguments`). Here are the rules between parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diptych.base.errors import NotTaken, UserError
from diptych.base.quantities import Count
from diptych.base.terminal import meant
from diptych.building.build import check_arguments, check_value
from diptych.building.targets import UNBUILT, located
from diptych.commands import stored
from diptych.commands.overrides import LIGHTNINGS_ACCUMULATION
from diptych.commands.resolvers import budget, check_name, is_whole, vocab_size
from diptych.commands.stored import Config
from diptych.launch.world import nodes, outside

NEEDED = ("trainer", "model", "data", "loss", "optim", "schedule")  # data.steps follows from the trainer


def composed(cfg: DictConfig) -> Config:
    """A command line's config as plain data, with the numbers that this machine computes in.

    Raises UserError where a part of the training is missing.
    """
    if isinstance(cfg.get("data"), DictConfig) and "_target_" not in cfg.data:
        raise UserError("This data set is for evaluation only: take data=emoji or data=webdataset to train.")
    for key in NEEDED:
        if not isinstance(cfg.get(key), DictConfig) or "_target_" not in cfg[key]:
            raise UserError(f"{key}={cfg.get(key)} builds nothing: take a choice of {key} (`--help` lists them).")
    config = with_precision(stored.settled(cfg))
    name = config["name"]
    return {**config, "name": str(name) if isinstance(name, int | float) else name}  # as in name=2026


def with_precision(config: Config) -> Config:
    """The config with a name for `trainer.precision=auto`. Raises UserError for an unknown name."""
    from diptych.training.precision import resolve_precision

    trainer = config["trainer"]
    precision = resolve_precision(trainer.get("precision"), trainer.get("accelerator"))
    return {**config, "trainer": {**trainer, "precision": precision}}


def validate(config: Config) -> None:
    """Raises UserError, with what to change, for a training that can't work."""
    from diptych.commands.sets import check_evaluate
    from diptych.data.datamodule import check_layout
    from diptych.data.sets.held_out import check as check_held_out

    if wrong := stored.wrong_kind(config):
        place, value, kinds = wrong
        raise UserError(f"{place}={'null' if value is None else value} must be {kinds}.")
    check_name(config["name"])
    if not is_whole(config["seed"]) or not 0 <= config["seed"] < 2**32:
        raise UserError(f"seed={config['seed']} must be a whole number from 0 to {2**32 - 1}.")
    _refuse_lightnings_accumulation(config)
    _check_parts(config)
    data, trainer, text = config["data"], config["trainer"], config["model"]["text"]
    samples, steps = config.get("samples"), trainer["max_steps"]
    if samples is not None and steps != budget(samples, data["batch_size"], 0):
        raise UserError(f"samples={samples} and trainer.max_steps={steps} are two budgets: give one.")
    check_evaluate(data.get("evaluate"))
    check_held_out(data.get("validation", 0))
    if "vocabulary" in text and (ids := vocab_size(text["vocabulary"])) != text["vocab_size"]:
        raise UserError(
            f"model.text.vocab_size={text['vocab_size']} does not fit model.text.vocabulary={text['vocabulary']} of"
            f" {ids} ids: leave model.text.vocab_size out, it follows from the file."
        )
    _check_machine(trainer)
    ranks = trainer["devices"] * nodes()
    check_layout(data["batch_size"], data["streams"], ranks, data["workers"])
    _check_accumulation(data["batch_size"] // ranks, config, ranks)
    _check_sharding(config, ranks)


def _refuse_lightnings_accumulation(config: Config) -> None:
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    callbacks = config["callbacks"].values()
    scheduled = any(_builds(callback, GradientAccumulationScheduler) for callback in callbacks)
    if scheduled or "accumulate_grad_batches" in config["trainer"]:
        raise UserError(LIGHTNINGS_ACCUMULATION)


def _builds(part: Any, kind: type) -> bool:
    found = located(part["_target_"]) if isinstance(part, Mapping) and "_target_" in part else None
    return isinstance(found, type) and issubclass(found, kind)


def _check_parts(config: Config) -> None:
    """Each part has the arguments that it gets, and their values have the right type and range."""
    if (logger := config.get("logger")) and "_target_" not in logger:
        key = f"logger.{next(iter(logger))}"
        raise NotTaken(key, f"{key} is read by no logger", ", or take logger=wandb")
    for key in (*NEEDED, "finetune", "logger", "callbacks"):
        part = split_pretrained(config["model"])[0] if key == "model" else arguments(config, key)
        check_arguments(key, part)


# Keys of a section that are not arguments of its class: `fit` gives them to others, or a recipe reads them.
READ_ELSEWHERE = {"data": (*UNBUILT, "evaluate"), "trainer": ("accumulate",)}


def arguments(config: Config, section: str) -> Any:
    """What the class of a section is built from."""
    if section not in READ_ELSEWHERE:
        return config.get(section)
    return {key: value for key, value in config[section].items() if key not in READ_ELSEWHERE[section]}


def split_pretrained(model: dict[str, Any]) -> tuple[dict[str, Any], dict[str | None, str]]:
    """A model's config without `compile` and the three keys `pretrained`; and the values of these, by tower (None:
    the whole model).

    The first part describes the model in its checkpoints, which must not need the file that the run started from.
    """
    described = {key: value for key, value in model.items() if key not in ("compile", "pretrained")}
    paths: dict[str | None, str | None] = {None: model.get("pretrained")}
    for tower in ("image", "text"):
        described[tower] = {key: value for key, value in model[tower].items() if key != "pretrained"}
        paths[tower] = model[tower].get("pretrained")
    return described, {tower: path for tower, path in paths.items() if path is not None}


def _check_machine(trainer: Mapping[str, Any]) -> None:
    import torch

    world = outside()
    if world is not None and trainer["devices"] != world.local_size:
        raise UserError(
            f"trainer.devices={trainer['devices']}, but {world.launcher} has started {world.local_size} ranks on"
            f" each machine: take trainer.devices={world.local_size}, or leave it out."
        )
    if trainer["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer=gpu finds no GPU on this machine: take trainer=cpu, or trainer=auto.")


def _check_accumulation(share: int, config: Config, ranks: int) -> None:
    """share: samples of the batch on each rank"""
    parts, batch_size = config["trainer"].get("accumulate", 1), config["data"]["batch_size"]
    check_value("trainer.accumulate", parts, Count)
    if share % parts:
        near = max((n for n in range(1, parts) if share % n == 0), default=1)
        more = next((n for n in range(parts, share + 1) if share % n == 0), share)
        raise UserError(
            f"A rank's {share} of data.batch_size={batch_size} can't be divided by trainer.accumulate={parts}:"
            f" take trainer.accumulate={' or '.join(map(str, dict.fromkeys((near, more))))},"
            f" or data.batch_size={max(1, round(share / parts)) * parts * ranks}."
        )


def _check_sharding(config: Config, ranks: int) -> None:
    """Under trainer=fsdp a rank has no whole matrix and no whole model."""
    from lightning.pytorch.callbacks import WeightAveraging

    from diptych.training.strategy import FullySharded

    strategy = config["trainer"].get("strategy")
    if not _builds(strategy, FullySharded):
        return
    replicas = strategy.get("replicas", 1)
    if not is_whole(replicas) or replicas < 1 or ranks % replicas:
        raise UserError(f"trainer.strategy.replicas={replicas} does not divide the {ranks} ranks: give a divisor.")
    if config["trainer"]["precision"] == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed needs a gradient scaler, and torch's doesn't see an overflow in a shard of"
            " trainer=fsdp: take bf16-mixed or bf16-true, or trainer=ddp."
        )
    if getattr(located(config["optim"]["_target_"]), "needs_whole_matrices", False):
        raise UserError(
            "optim=muon orthogonalises whole matrices, and under trainer=fsdp a rank has only a part of each:"
            " take optim=adamw, or trainer=ddp."
        )
    if any(_builds(callback, WeightAveraging) for callback in config["callbacks"].values()):
        raise UserError(
            "callbacks=ema averages a whole copy of the model, and under trainer=fsdp no rank has one:"
            " take callbacks=default, or trainer=ddp."
        )


def check_start(config: Config) -> None:
    """Raises UserError for a new run whose first weights are missing, or that would freeze random weights."""
    paths = split_pretrained(config["model"])[1]
    for tower, path in paths.items():
        if not Path(path).exists():
            key = "model.pretrained" if tower is None else f"model.{tower}.pretrained"
            raise UserError(f"{key}={path} does not exist: {meant(key, Path(path))}")
    for tower in ("image", "text"):
        choice = (config.get("finetune") or {}).get(tower)
        if choice not in (None, "all") and None not in paths and tower not in paths:
            raise UserError(
                f"finetune.{tower}={choice} would freeze random weights:"
                f" give model.pretrained=PATH, or model.{tower}.pretrained=PATH."
            )
