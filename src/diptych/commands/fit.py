"""Train a run: config → data → module → trainer → fit, in one process or as one rank of several.

`outline`, `check_loss` and `check_logger` build parts of the same config first, without memory or data.
"""

from __future__ import annotations

import inspect
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.masking import masked, masked_text
from diptych.base.terminal import say
from diptych.building.build import make
from diptych.building.targets import foreign, targets_in, trusting
from diptych.commands import experiment, stored
from diptych.commands.config import arguments, split_pretrained
from diptych.commands.stored import Config
from diptych.launch.world import nodes, own_rank

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loggers import Logger
    from torch import nn

    from diptych.data.sets.evalset import EvalSet
    from diptych.towers.clip import CLIP


def fit(config: Config, run_dir: Path, resume: bool) -> None:
    """Train a run, as the only process or as one rank of several.

    config: plain data, checked and passed on in memory by the leading process. The folder's file may have changed
        since then, and lacks the credentials.
    """
    with trusting({target for _, target in targets_in(config)}):
        _fit(config, run_dir, resume)


def _fit(config: Config, run_dir: Path, resume: bool) -> None:
    import lightning as L
    import torch

    from diptych.base.allocator import keep_freed_memory
    from diptych.commands.sets import sets_of_training
    from diptych.model.load import read_checkpoint
    from diptych.training.loggers import MetricsFile, finishing
    from diptych.training.module import ContrastiveModule, compile_towers
    from diptych.training.precision import tower_dtype

    L.seed_everything(config["seed"], verbose=False)
    last = run_dir / "checkpoints" / "last.ckpt"
    start = int(read_checkpoint(last)["global_step"]) if resume else 0
    steps, precision = config["trainer"]["max_steps"], config["trainer"]["precision"]
    first = own_rank() == 0
    device = "cuda" if config["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()

    loss = make(config["loss"], "loss")
    model, notes = _model(config, start=not resume, loss=loss)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config["model"].get("compile"):
        compile_towers(model)
    data = make(arguments(config, "data"), "data")
    data.start = start
    sets, data.evaluate = sets_of_training(config["data"], model)
    if first:
        _say_what_is_trained(config, notes, data, loss, device)

    describe = _describe(config, data, sets, first)
    optimizer, schedule = make(config["optim"], "optim"), make(config["schedule"], "schedule")
    accumulate = config["trainer"].get("accumulate", 1)
    module = ContrastiveModule(model, loss, optimizer, schedule, steps, describe, accumulate, tower_dtype(precision))
    loggers: list[Logger] = [MetricsFile(run_dir / "metrics.jsonl", resume_from=start)]
    callbacks = [make(each, f"callbacks.{key}") for key, each in config["callbacks"].items() if each]
    with finishing(loggers):
        if config["logger"] and first:
            loggers += filter(None, [make(config["logger"], "logger")(run_dir=str(run_dir), config=masked(config))])
        make_trainer = make(arguments(config, "trainer"), "trainer")
        trainer = make_trainer(run_dir=run_dir, nodes=nodes(), callbacks=callbacks, loggers=loggers)
        begin = time.perf_counter()
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    if trainer.is_global_zero and (trainer.global_step > start or not (run_dir / "metrics.json").is_file()):
        _write_training(run_dir, trainer, data, time.perf_counter() - begin)


def _model(config: Config, start: bool, loss: nn.Module | None = None) -> tuple[CLIP, list[str]]:
    """The model, with its first weights and its frozen parts, and notes for the log.

    start: whether to read the weights that a new run starts from; loss: takes its own part of them
    """
    described, paths = split_pretrained(config["model"])
    model = make(described, "model")
    notes = []
    if start and paths:
        from diptych.model.pretrained import start_from

        notes = [note for tower, path in paths.items() for note in start_from(model, path, tower, loss)]
    if config.get("finetune") is not None:  # None: finetune=null, or a run of an early version
        notes += make(config["finetune"], "finetune")(model)
    return model, notes


def _say_what_is_trained(config: Config, notes: list[str], data: Any, loss: Any, device: str) -> None:
    for note in notes:
        say(f"model: {note}")
    if config["data"].get("validation"):
        say(f"data: {data.told}")
    if hasattr(loss, "describe"):
        ranks = config["trainer"]["devices"] * nodes()
        say(f"loss: {loss.describe(data.batch_size // ranks, ranks, device)}")


def _describe(config: Config, data: Any, sets: list[EvalSet], first: bool) -> dict[str, Any]:
    """What checkpoints say about themselves: the model, and on the first rank, which writes them, the run."""
    from diptych.commands.sets import to_remember
    from diptych.data.datamodule import PairData
    from diptych.data.stream.order import EDITION

    describe = {
        "model": stored.carrying_vocabulary(split_pretrained(config["model"])[0]),
        "name": masked_text(config["name"]),
        "seed": config["seed"],
        "order": EDITION,
        "templates": to_remember(sets),
    }
    if first:
        describe["run"] = {"experiment": experiment.describe(config), "steps": config["trainer"]["max_steps"]}
        describe["run"] |= {"data": data.describe()} if isinstance(data, PairData) else {}
    return describe


def _write_training(run_dir: Path, trainer: Trainer, data: Any, seconds: float) -> None:
    from diptych.training.callbacks.gradients import Gradients
    from diptych.training.callbacks.zeroshot import ZeroShot

    epoch = data.order
    training = {
        "steps": trainer.global_step,
        "nonfinite_steps": next(c for c in trainer.callbacks if isinstance(c, Gradients)).skipped,  # type: ignore[attr-defined]
        "seconds": round(seconds, 1),
        "pairs": trainer.global_step * data.batch_size,
        "samples": epoch.samples,
        "epochs": round(trainer.global_step / epoch.steps, 2),
        "left_out_each_epoch": epoch.remainder,
        "left_out_of_all_epochs": data.left_out_of_all(trainer.global_step),
        "augmentation": data.augment.describe() if data.augment else "CLIP's square crop alone",
    }
    validations = [callback for callback in trainer.callbacks if isinstance(callback, ZeroShot)]  # type: ignore[attr-defined]
    pairs = [callback.pairs for callback in validations if callback.pairs]
    if said := [text for callback in validations for text in callback.changes]:
        training["validation_changed"] = said
    metrics = {"training": training} | ({"pairs": pairs[0]} if pairs else {})
    write_json(run_dir / "metrics.json", metrics)


def outline(config: Config) -> CLIP:
    """The model without memory. Raises UserError where it can't be built or frozen."""
    import torch

    from diptych.towers.clip import check_towers

    with torch.device("meta"):
        model = _model(config, start=False)[0]
    if foreign(config["model"]):
        check_towers(model)
    return model


def check_loss(config: Config) -> None:
    """Raises UserError where the loss can't be built, or gets groups and can't use them, or needs groups and gets
    none."""
    loss, named = make(config["loss"], "loss"), config["loss"]["_target_"]
    takes = "groups" in inspect.signature(loss.forward).parameters
    field = config["data"].get("groups")
    if takes and field is None:
        raise UserError(
            f"{named} needs to know which samples belong to one concept: give data.groups=FIELD, a field of"
            " their .json, or take loss=clip."
        )
    if field is not None and not takes:
        raise UserError(
            f"data.groups={field} is not used by {named}: take loss=multi_positive, or leave data.groups out."
        )


def check_logger(config: Config) -> None:
    """Raises UserError where W&B refuses the run's names or has no key."""
    logger = config.get("logger")
    if logger and logger.get("_target_") == "diptych.training.loggers.wandb_logger":
        from diptych.training.loggers import prepare_wandb

        prepare_wandb(str(logger.get("project")), str(logger.get("name")))


def warn_if_slow(config: Config, model: CLIP) -> None:
    """Say so where a step will take long, on a machine without a GPU."""
    import torch

    from diptych.model.cost import CPU_FLOPS_PER_CORE, training_flops

    if torch.cuda.is_available():
        return
    flops = training_flops(model) * config["data"]["batch_size"]
    seconds = flops / (CPU_FLOPS_PER_CORE * (os.cpu_count() or 1))
    if seconds > 5:
        say(
            f"diptych: without a GPU a step of this model takes roughly {seconds:,.0f} s"
            f" ({flops / 1e12:.1f} TFLOP); to see learning in minutes type"
            " `python src/train.py recipe=demo`, or model=vit_tiny.",
        )
