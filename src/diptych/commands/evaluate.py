"""Evaluate a checkpoint: `python src/evaluate.py checkpoint=RUN_DIR task=zeroshot data=…`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.files import write
from diptych.base.masking import masked
from diptych.base.quantities import BelowOne
from diptych.base.terminal import counted, say
from diptych.building.build import check_arguments, check_value
from diptych.building.targets import targets_in, trusting
from diptych.commands.claim import folder_of, results
from diptych.commands.stored import Config
from diptych.launch.world import place, shared
from diptych.report.record import folder_of_config

if TYPE_CHECKING:
    from diptych.data.sets.evalset import EvalSet
    from diptych.model.load import Loaded

# Keys of `data` that say what is evaluated. The others belong to a training.
OF_SETS = ("evaluate", "shards", "sources", "captions", "files", "allow_pipe", "max_bad", "templates")


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate a checkpoint on labelled sets; returns the folder of `metrics.json` and `report.html`."""
    from diptych.commands.sets import about, lines, tell
    from diptych.report.page import write_report
    from diptych.tasks import pages

    check_arguments("task", OmegaConf.to_container(cfg.task, resolve=True))
    name = HydraConfig.get().runtime.choices["task"]
    table = _table_of(cfg.task, name)
    folder, typed, loaded = opened(cfg)
    sets = typed_sets(cfg, loaded)
    with shared(results(folder, numbered=not typed)) as out, trusting(cfg.allow_targets):
        own = folder_of_config(out, name)
        write(own / "config.yaml", plain.dump(masked(OmegaConf.to_container(cfg, resolve=False))))
        write(own / "environment.txt", environment())
        task = instantiate(cfg.task, _convert_="all")
        metrics = task(out, loaded, sets)
        told = about(loaded, sets, task.keywords.get("train"), prompts=name != "retrieval")
        metrics = tell(out, name, told, metrics)
        say("\n".join(filter(None, (table(metrics), lines(told)))))
        say(f"report: {write_report(out, pages())}")
    return out


def _table_of(task: DictConfig, name: str) -> Callable[[dict[str, Any]], str]:
    """The function that makes the terminal's table. Says what a task of the user's own lacks before it runs."""
    from diptych.tasks import pages

    if not task.get("_partial_"):
        raise UserError(
            f"task={name} needs `_partial_: true` in its config: the command gives {task._target_} the folder, the"
            " model and the sets."
        )
    module = task._target_.rpartition(".")[0]
    table = getattr(get_object(module), "table", None)
    if not callable(table):
        raise UserError(
            f"task={name}: {module} has no function table(metrics) that makes the terminal's table: add one, as"
            " in diptych/tasks/retrieval.py."
        )
    if module not in {f"diptych.tasks.{each}" for each in pages()}:
        say(f"task={name}: {module} has no PAGE in diptych.tasks: metrics.json has its numbers, report.html has not")
    return table


def opened(cfg: DictConfig) -> tuple[Path, bool, Loaded]:
    """The folder for the results, whether someone typed it, and the checkpoint, on this rank's device."""
    from diptych.commands.sets import chosen
    from diptych.model.load import load

    folder, typed = folder_of(cfg, "out")
    chosen(cfg.data.get("templates"))  # a missing file is reported before a checkpoint is read
    loaded = load(cfg.checkpoint, allow_targets=cfg.allow_targets)
    place(loaded.model)
    return folder, typed, loaded


def typed_sets(cfg: DictConfig, loaded: Loaded) -> list[EvalSet]:
    """The evaluation sets that this command line names, with their templates."""
    from diptych.commands.sets import sets_for

    hydra = HydraConfig.get()
    typed = {override.split("=", 1)[0].lstrip("+~") for override in hydra.overrides.task}
    if hydra.runtime.choices.get("data") == "emoji" and not typed & {"data", *(f"data.{key}" for key in OF_SETS[:4])}:
        say("data: emoji, the embedded drawings, as no data= was given")
    data: Any = {key: _settled(cfg.data, key) for key in OF_SETS if key in cfg.data}
    check_value("data.max_bad", data.get("max_bad", 0.0), BelowOne)
    with trusting({target for _, target in targets_in(data)}):
        return sets_for(data, loaded)


def _settled(data: DictConfig, key: str) -> Any:
    value = data[key]
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def report(config: Config, run_dir: Path) -> None:
    """Evaluate a finished run from its files, and write its page."""
    from diptych.commands.sets import about, lines, sets_for, tell
    from diptych.model.cost import affordable
    from diptych.model.load import load
    from diptych.report.page import write_report
    from diptych.tasks import pages, retrieval, zeroshot

    if config["data"].get("evaluate"):
        loaded = load(run_dir, allow_targets=[target for _, target in targets_in(config["model"])])
        place(loaded.model)
        sets = affordable(sets_for(config["data"], loaded), loaded.model)
        say(f"evaluating the run on {counted(len(sets), 'set')}")
        told = about(loaded, sets)
        write_all = any(evalset.classnames for evalset in sets)
        metrics = (zeroshot.write_all if write_all else retrieval.write_retrieval)(run_dir, loaded, sets)
        metrics = tell(run_dir, "zeroshot", told, metrics)
        say("\n".join(filter(None, (zeroshot.table(metrics), lines(told)))))
    say(f"report: {write_report(run_dir, pages())}")


def environment() -> str:
    """The machine and every installed package, one a line."""
    from diptych.training.trainer import describe_hardware

    lines = [f"python {platform.python_version()}", f"system {platform.system()} {platform.machine()}"]
    lines += [f"cores {os.cpu_count()}", *(f"{key} {value}" for key, value in describe_hardware().items())]
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    return "\n".join([*lines, "", *packages]) + "\n"
