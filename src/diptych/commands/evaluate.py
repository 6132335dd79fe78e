"""Evaluate a checkpoint: `python src/evaluate.py checkpoint=RUN_DIR task=zeroshot data=…`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from diptych.base import plain
from diptych.base.files import write
from diptych.base.masking import masked
from diptych.base.terminal import say
from diptych.building.arguments import check_arguments
from diptych.building.targets import targets_in, trusting
from diptych.commands.claim import results
from diptych.commands.config import check_max_bad
from diptych.commands.fit import (
    environment,
    prompted_sets,
)
from diptych.commands.typed import folder_of, given
from diptych.launch.sharing import place, shared
from diptych.report.record import folder_of_config

if TYPE_CHECKING:
    from diptych.data.sets.evalset import EvalSet
    from diptych.model.load import Loaded

# Keys of `data` that say what is evaluated; others follow from a training's config, which there is none of.
OF_SETS = ("evaluate", "shards", "sources", "captions", "files", "allow_pipe", "max_bad", "templates")


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate a checkpoint on labelled sets; returns the folder of `metrics.json` and `report.html`."""
    from diptych.commands.prompted import about, chosen, lines, tell
    from diptych.model.load import load
    from diptych.report.page import write_report

    check_arguments("task", OmegaConf.to_container(cfg.task, resolve=True))
    folder, typed = folder_of(cfg, "out")
    chosen(cfg.data.get("templates"))  # a file that is missing is said before a checkpoint is read
    loaded = load(given(cfg, "checkpoint"), allow_targets=cfg.allow_targets)
    place(loaded.model)
    sets = typed_sets(cfg, loaded)
    with shared(results(folder, numbered=not typed)) as out, trusting(cfg.allow_targets):
        own = folder_of_config(out, HydraConfig.get().runtime.choices["task"])
        write(own / "config.yaml", plain.dump(masked(OmegaConf.to_container(cfg, resolve=False))))
        write(own / "environment.txt", environment())
        task = instantiate(cfg.task, _convert_="all")
        metrics = task(out, loaded, sets)
        name = HydraConfig.get().runtime.choices["task"]
        told = about(loaded, sets, task.keywords.get("train"), prompts=name != "retrieval")
        metrics = tell(out, name, told, metrics)
        say(f"{_table_of(cfg.task._target_)(metrics)}\n{lines(told)}")
        say(f"report: {write_report(out)}")
    return out


def _settled(data: DictConfig, key: str) -> Any:
    value = data[key]
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def typed_sets(cfg: DictConfig, loaded: Loaded) -> list[EvalSet]:
    """The evaluation sets that this command line names, with the templates that the model is asked with."""
    hydra = HydraConfig.get()
    typed = {override.split("=", 1)[0].lstrip("+~") for override in hydra.overrides.task}
    if hydra.runtime.choices.get("data") == "emoji" and not typed & {"data", *(f"data.{key}" for key in OF_SETS[:4])}:
        say("data: emoji, the embedded drawings, as no data= was given")
    data: Any = {key: _settled(cfg.data, key) for key in OF_SETS if key in cfg.data}
    check_max_bad(data.get("max_bad", 0.0))
    with trusting({target for _, target in targets_in(data)}):
        return prompted_sets(data, loaded)


def _table_of(task: str) -> Callable[[dict[str, Any]], str]:
    """What a task's module says of its metrics on the terminal."""
    return get_method(f"{task.rpartition('.')[0]}.table")
