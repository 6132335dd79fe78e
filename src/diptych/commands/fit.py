"""The making of a run: its config checked and built, trained in one process or as one rank of several, its report.

With `run` the only module that holds a raw config; everything it builds takes plain arguments.
"""

from __future__ import annotations

import inspect
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.base.errors import UserError
from diptych.base.files import write_json
from diptych.base.masking import masked, masked_text
from diptych.base.templates import NAMED
from diptych.base.terminal import counted, say
from diptych.building.build import make
from diptych.building.targets import UNBUILT, foreign, targets_in, trusting
from diptych.commands import experiment, stored
from diptych.commands.config import split_pretrained
from diptych.commands.stored import Config
from diptych.commands.vocabulary import carrying_vocabulary, check_vocabulary
from diptych.launch.sharing import place
from diptych.launch.world import nodes

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loggers import Logger
    from torch import nn

    from diptych.data.sets.evalset import EvalSet
    from diptych.model.load import Loaded
    from diptych.towers.clip import CLIP


def outline(config: Config) -> CLIP:
    """The model without memory. One that can't be built or frozen as said is refused here."""
    import torch

    from diptych.towers.clip import check_towers

    with torch.device("meta"):
        model = _model(config, start=False)[0]
    if foreign(config["model"]):
        check_towers(model)
    return model


def check_loss(config: Config) -> None:
    """The loss can be built, and gets groups if and only if it takes them."""
    loss, named = make(config["loss"], "loss"), config["loss"]["_target_"]
    takes = "groups" in inspect.signature(loss.forward).parameters
    field = config["data"].get("groups")
    if takes and field is None:
        raise UserError(
            f"{named} needs to know which samples are of one concept: say data.groups=FIELD, a field of"
            " their .json, or take loss=clip."
        )
    if field is not None and not takes:
        raise UserError(
            f"data.groups={field} is nothing that {named} looks at: take loss=multi_positive, or leave"
            " data.groups out."
        )


def check_logger(config: Config) -> None:
    """W&B takes the run's names and its key; said before there is a folder."""
    logger = config.get("logger")
    if logger and logger.get("_target_") == "diptych.training.loggers.wandb_logger":
        from diptych.training.loggers import prepare_wandb

        prepare_wandb(str(logger.get("project")), str(logger.get("name")))


def warn_if_slow(config: Config, model: CLIP) -> None:
    """One sentence, on a machine without a GPU, when a step will take long."""
    import torch

    from diptych.model.cost import CPU_FLOPS_PER_CORE, training_flops

    if torch.cuda.is_available():
        return
    flops = training_flops(model) * config["data"]["batch_size"]
    seconds = flops / (CPU_FLOPS_PER_CORE * (os.cpu_count() or 1))
    if seconds > 5:
        say(
            f"diptych: without a GPU a step of this model takes very roughly {seconds:,.0f} s"
            f" ({flops / 1e12:.1f} TFLOP); to see learning in minutes type"
            " `python src/train.py recipe=demo`, or model=vit_tiny.",
        )


def fit(config: Config, run_dir: Path, resume: bool) -> None:
    """Train a run, as the one process or as one rank of several. config: plain data, checked by the process that
    leads and handed on in memory: what the folder holds since then does not count, and lacks credentials."""
    with trusting({target for _, target in targets_in(config)}):
        _fit(config, run_dir, resume)


def _fit(cfg: Config, run_dir: Path, resume: bool) -> None:
    import lightning as L
    import torch

    from diptych.base.allocator import keep_freed_memory
    from diptych.commands.prompted import to_remember, with_templates
    from diptych.data.datamodule import PairData
    from diptych.data.stream.order import EDITION
    from diptych.model.cost import affordable
    from diptych.training.callbacks.begun import Begun
    from diptych.training.compiling import compile_towers
    from diptych.training.loggers import MetricsFile, finishing
    from diptych.training.module import ContrastiveModule
    from diptych.training.precision import tower_dtype

    L.seed_everything(cfg["seed"], verbose=False)
    last = run_dir / "checkpoints" / "last.ckpt"
    start = _start(last) if resume else 0
    loss = make(cfg["loss"], "loss")
    model, described, notes = _model(cfg, start=not resume, loss=loss)
    first = int(os.environ.get("RANK", 0)) == 0
    if first:
        say("".join(f"model: {note}\n" for note in notes), end="")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_gpu = cfg["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
    if not on_gpu:
        keep_freed_memory()
    if cfg["model"].get("compile"):
        compile_towers(model)
    trainer_keys = dict(cfg["trainer"])
    accumulate = trainer_keys.pop("accumulate", 1)
    data = _data(cfg["data"])
    data.start = start
    asked = with_templates(evaluation_sets(cfg["data"]), cfg["data"].get("templates"))
    data.evaluate = affordable(_readable(asked, model), model)
    if first and cfg["data"].get("validation"):
        say(f"data: {data.told}")
    if first and hasattr(loss, "describe"):
        ranks = cfg["trainer"]["devices"] * nodes()
        say(f"loss: {loss.describe(data.batch_size // ranks, ranks, 'cuda' if on_gpu else 'cpu')}")
    describe = {
        "model": carrying_vocabulary(described),
        "name": masked_text(cfg["name"]),
        "seed": cfg["seed"],
        "order": EDITION,
        "templates": to_remember(asked),
    }
    if first:
        describe["run"] = {"experiment": experiment.describe(cfg), "steps": cfg["trainer"]["max_steps"]}
        describe["run"] |= {"data": data.describe()} if isinstance(data, PairData) else {}
    module = ContrastiveModule(
        model,
        loss,
        make(cfg["optim"], "optim"),
        make(cfg["schedule"], "schedule"),
        cfg["trainer"]["max_steps"],
        describe,
        accumulate,
        tower_dtype(cfg["trainer"]["precision"]),
    )
    loggers: list[Logger] = [MetricsFile(run_dir / "metrics.jsonl", resume_from=start)]
    callbacks = [Begun(run_dir)]
    callbacks += [make(each, f"callbacks.{key}") for key, each in cfg["callbacks"].items() if each]
    with finishing(loggers):
        if cfg["logger"] and first:
            loggers += filter(None, [make(cfg["logger"], "logger")(run_dir=str(run_dir), config=masked(cfg))])
        trainer = make(trainer_keys, "trainer")(run_dir=run_dir, nodes=nodes(), callbacks=callbacks, loggers=loggers)
        begin = time.perf_counter()
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    if trainer.is_global_zero and (trainer.global_step > start or not (run_dir / "metrics.json").is_file()):
        _write_training(run_dir, trainer, data, time.perf_counter() - begin)


def check_run_of(checkpoint: Mapping[str, Any], given: Config, run_dir: Path) -> None:
    """given: the config with which the run is to go on. Raises UserError where the checkpoint is another run's, its
    data is not what it was, or it can't become as long as asked for; nothing is written before that."""
    from diptych.data.datamodule import PairData
    from diptych.data.stream import identity

    step, was = int(checkpoint["global_step"]), stored.read(run_dir, f"resume={run_dir}")
    begun, length = checkpoint["diptych"].get("run"), given["trainer"]["max_steps"]
    before = begun["steps"] if begun else was["trainer"]["max_steps"]
    check_vocabulary(checkpoint["diptych"]["model"], run_dir)
    if begun:
        experiment.check_same(begun["experiment"], given, run_dir / f"checkpoints/step={step}.ckpt", run_dir)
    else:
        _check_without_note(given, was, run_dir)
    if begun and "data" in begun:
        data = _data({**given["data"], "evaluate": None})
        if isinstance(data, PairData) and (said := identity.difference(begun["data"], data.describe())):
            raise UserError(
                f"resume={run_dir} can't go on, since its data is not what it was: {said}. Give what it was begun"
                " with, in the same order (data.shards= says where it is now), or start a new run."
            )
    if length != before:
        schedule, augment = make(given["schedule"], "schedule"), make(given["data"].get("augment"), "data.augment")
        experiment.check_length(schedule, augment, before, length, step, run_dir)
        say(f"length: {counted(length, 'step')} instead of {before:,}; every step taken stays as it was")
    if step >= length:
        say(f"This run is complete: {step:,} of {counted(length, 'step')}. Only its report is made again.")


def _check_without_note(given: Config, was: Config, run_dir: Path) -> None:
    """A checkpoint of an earlier version does not say what its data was."""
    for key in ("shards", "sources"):
        if masked(given["data"].get(key)) != was["data"].get(key):
            raise UserError(
                f"data.{key} can't change on resume={run_dir}: its checkpoint is of an earlier version, which did not"
                " note the data, so no one can tell whether it is the same."
            )
    say(
        "The checkpoint is of an earlier version, which did not note its run and data: see to it that both are the"
        " same as before.",
    )


def _data(cfg: Mapping[str, Any]) -> Any:
    return make({k: v for k, v in cfg.items() if k not in UNBUILT and k != "evaluate"}, "data")


def _start(last: Path) -> int:
    """The step at which the run goes on. The checkpoint's tensors are let go here: Lightning reads its own."""
    from diptych.model.load import read_checkpoint

    return int(read_checkpoint(last)["global_step"])


def _model(cfg: Config, start: bool, loss: nn.Module | None = None) -> tuple[CLIP, dict[str, Any], list[str]]:
    """The config's model, with the weights it starts from and with what is not trained frozen; what a checkpoint
    says of it; and notes for the log.

    start: whether the run is new, and reads those weights; loss: what takes a loss's part of them
    """
    described, paths = split_pretrained(cfg["model"])
    model = make(described, "model")
    notes = []
    if start and paths:
        from diptych.model.pretrained import start_from

        notes = [note for tower, path in paths.items() for note in start_from(model, path, tower, loss)]
    if (
        cfg.get("finetune") is not None
    ):  # null as Hydra's finetune=null; not in the config of a run from before there was any
        notes += make(cfg["finetune"], "finetune")(model)
    return model, described, notes


def evaluation_sets(data: Any) -> list[EvalSet]:
    """What `data.evaluate` names: a reader of sets, a path of one, or a list of either; none where it is null.
    data: the config's `data`"""
    from diptych.data.sets.opening import sets_at

    node = data.get("evaluate")
    if node is None:
        return []
    if isinstance(node, dict) and "_target_" in node:
        return make(node, "data.evaluate")
    found: list[EvalSet] = []
    paths = [node] if isinstance(node, str) else list(node)
    if all(isinstance(path, str) for path in paths):
        return sets_at(paths)
    for each in paths:
        found += sets_at(each) if isinstance(each, str) else make(each, "data.evaluate")
    return found


def sets_or_pairs(data: Any) -> list[EvalSet]:
    """What a task or `embed.py` reads: `data.evaluate`'s sets, or, without any, the pairs that `data.shards` names.
    Raises UserError where the config names neither."""
    from diptych.data.sets.pair_set import pair_set

    if sets := evaluation_sets(data):
        return sets
    if not data.get("shards") and not data.get("sources"):
        raise UserError(
            "data.evaluate and data.shards are both null: give data.evaluate=PATH (a folder or shards), or"
            " data=webdataset data.shards=PATTERN for the pairs themselves."
        )
    files = make(data.get("files"), "data.files")
    if files is not None:
        files.allow_pipe = data.get("allow_pipe", False)
    max_bad = data.get("max_bad", 0.0)
    return pair_set(data.get("shards"), data.get("sources"), data.get("captions"), files, max_bad=max_bad)


def fix_templates(data: Any) -> None:
    """The templates in `data` that a new run is validated with, read from their file: the run goes on the same
    whatever becomes of it. Raises UserError where there are none."""
    from diptych.commands.prompted import chosen

    choice = data.get("templates")
    if choice == "run":
        raise UserError("data.templates=run are those that a finished run remembers: to train, give them yourself.")
    found = chosen(choice)
    if isinstance(choice, str) and choice not in NAMED:
        data["templates"] = found


def prompted_sets(data: Config, loaded: Loaded) -> list[EvalSet]:
    """The evaluation sets of a config's `data` with the templates that a model is asked with."""
    from diptych.commands.prompted import with_templates

    return with_templates(sets_or_pairs(data), data.get("templates"), loaded.templates)


def _readable(sets: list[EvalSet], model: CLIP) -> list[EvalSet]:
    """Those whose class names the model reads: where it reads none, no training should find that out at its end."""
    from diptych.model.encode import readable

    kept, left = readable(model, sets)
    if left and not kept:
        name, why = next(iter(left.items()))
        raise UserError(f"The model reads none of data.evaluate's sets, {name}: {why}: take data.evaluate=null.")
    return kept


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


def report(config: Config, run_dir: Path) -> None:
    """Evaluate the finished run from its files, and write the page."""
    from diptych.commands.prompted import about, lines, tell
    from diptych.model.cost import affordable
    from diptych.model.load import load
    from diptych.report.page import write_report
    from diptych.tasks import zeroshot as assess

    if config["data"].get("evaluate"):
        loaded = load(run_dir, allow_targets=[target for _, target in targets_in(config["model"])])
        place(loaded.model)
        sets = affordable(prompted_sets(config["data"], loaded), loaded.model)
        told = about(loaded, sets)
        write = assess.write_all if any(evalset.classnames for evalset in sets) else assess.write_retrieval
        metrics = tell(run_dir, "zeroshot", told, write(run_dir, loaded, sets))
        say(f"{assess.table(metrics)}\n{lines(told)}")
    say(f"report: {write_report(run_dir)}")


def environment() -> str:
    """The machine and every installed package, one a line."""
    from diptych.training.trainer import describe_hardware

    lines = [f"python {platform.python_version()}", f"system {platform.system()} {platform.machine()}"]
    lines += [f"cores {os.cpu_count()}", *(f"{key} {value}" for key, value in describe_hardware().items())]
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    return "\n".join([*lines, "", *packages]) + "\n"
