"""The commands: a command line becomes a config, is checked, and is trained, evaluated, embedded, packed or planned.

With `fit` the only module that holds a raw config. Everything they build takes plain arguments.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from diptych.base import plain
from diptych.base.atomic import refusing, write
from diptych.base.errors import TO_STOP, RankFailed, Stopped, UserError
from diptych.base.masking import masked
from diptych.base.paths import ROOT
from diptych.base.quoting import to_type
from diptych.base.terminal import complain, say
from diptych.building.arguments import check_arguments
from diptych.building.targets import announce_foreign, targets_in, trusting
from diptych.commands import stored
from diptych.commands.boundary import sentence
from diptych.commands.claim import TRAINS, check_place, held, new_run, results
from diptych.commands.config import check_max_bad, check_start, quote, register_resolvers, validate, whole_lists
from diptych.commands.experiment import check_command
from diptych.commands.fit import (
    check_logger,
    check_loss,
    check_run_of,
    environment,
    fit,
    fix_templates,
    outline,
    prompted_sets,
    report,
    warn_if_slow,
)
from diptych.commands.overrides import added_to_nothing, short_help
from diptych.commands.rank import follow, launch, lead
from diptych.commands.resume import check_order, check_parts, check_run, named_places, resumed_config
from diptych.commands.sweeps import masked_records
from diptych.commands.vocabulary import keep_vocabulary
from diptych.launch.sharing import agree_on_folder, place, shared
from diptych.launch.slurm import requeue, started_again
from diptych.launch.world import adopt, outside, refuse_leftovers
from diptych.report.record import folder_of_config

if TYPE_CHECKING:
    from diptych.data.sets.evalset import EvalSet
    from diptych.model.load import Loaded

register_resolvers()  # on import, for jobs that a cluster's launcher unpickles


def main(config_name: str, action: Callable[[DictConfig], Any]) -> None:
    """Run `action` with the config that the command line composes; a user's mistake is one sentence and code 2."""
    os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
    os.environ.setdefault("DIPTYCH_STAMP", time.strftime("%Y-%m-%d_%H-%M-%S"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us whole, and we say what matters
    sys.argv[1:] = [part for argument in map(quote, sys.argv[1:]) for part in whole_lists(argument)]

    def job(cfg: DictConfig) -> None:
        # Caught here too: Hydra would print a line of its own before the error leaves the job.
        with _one_sentence(config_name):
            if wrong := added_to_nothing(ROOT / "conf", HydraConfig.get().overrides.task):
                raise UserError(wrong)
            action(cfg)

    if told := short_help(ROOT / "conf", config_name, sys.argv[1:]):
        say(told)
        return
    with _one_sentence(config_name):
        refuse_leftovers()
        if config_name == "train":
            _join_others(sys.argv[1:])
        elif config_name in ("evaluate", "embed"):
            agree_on_folder()
        elif world := outside():
            raise UserError(f"{world.launcher} has started {world.size} ranks, and {config_name} is for one process.")
        with masked_records():
            hydra_main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(job)()


@contextmanager
def _one_sentence(config_name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Stopped as stopped:
        if str(stopped):
            complain(stopped)
        requeue(stopped)
        sys.exit(stopped.code)
    except RankFailed as failed:
        complain(failed)
        sys.exit(1)
    except Exception as error:
        text = sentence(error, ROOT / "conf", config_name, sys.argv[1:])
        if text is None:
            raise
        complain(text)
        sys.exit(2)


def _join_others(arguments: list[str]) -> None:
    """Where torchrun or srun has started this process: only rank 0 returns, to compose the config for all."""
    world = outside()
    if world is None:
        return
    adopt(world)
    if world.rank > 0:
        follow()
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(f"{world.launcher} has started ranks for one run: type a sweep without it.")


def train(cfg: DictConfig) -> Path:
    """Train, or go on training; returns the run's folder."""
    from diptych.commands.recovery import recover
    from diptych.model.load import read_checkpoint
    from diptych.training.precision import resolve_precision

    world = outside()
    if world is not None and world.rank > 0:  # a task of a cluster's launcher, which didn't come through `main`
        follow()
    if cfg.resume is not None:
        check_run(Path(str(cfg.resume)).absolute())
    run_dir, typed = _folder(cfg, "run_dir" if cfg.resume is None else "resume")
    resume = began = cfg.resume is not None or (started_again() and (run_dir / "config.yaml").is_file())
    cfg.trainer.precision = resolve_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    with ExitStack() as folder:
        if began:
            folder.enter_context(held(run_dir, TRAINS))
            if cfg.resume is None:
                check_command(masked(stored.settled(cfg)), stored.read(run_dir, f"run_dir={run_dir}"), run_dir)
            overrides = HydraConfig.get().overrides.task if cfg.resume is not None else []
            cfg = resumed_config(cfg, run_dir, overrides)
            last = recover(run_dir)
            if named := named_places(stored.settled(cfg), overrides, begins=last is None):
                say(f"data: reads what the run's config names: {', '.join(named)}")
            if last is not None:
                checkpoint = read_checkpoint(last)
                check_order(checkpoint["diptych"], run_dir)  # before anything in the folder is written
            else:
                resume = False
                say("No checkpoint was written yet: the run starts again from step 0.")
        cfg.trainer.precision = resolve_precision(cfg.trainer.precision, cfg.trainer.accelerator)
        validate(cfg)
        if not resume:
            check_start(cfg)
            fix_templates(cfg.data)
        config = stored.settled(cfg)  # from here on plain data, the same in every process
        folder.enter_context(trusting({target for _, target in targets_in(config)}))
        check_loss(config)
        check_logger(config)
        model = outline(config)
        announce_foreign(config)
        warn_if_slow(config, model)
        if resume:
            check_parts(config, run_dir, model)
            check_run_of(checkpoint, config, run_dir)
        if not began:
            run_dir = folder.enter_context(new_run(run_dir, numbered=not typed))
        with refusing(run_dir / "checkpoints"):
            (run_dir / "checkpoints").mkdir(exist_ok=True)
        if not resume:
            keep_vocabulary(config, run_dir)
        stored.write(config, run_dir)
        write(run_dir / "environment.txt", environment())
        _fit_on_all_ranks(config, run_dir, resume)
        with _stopped_by_signals(run_dir):
            report(config, run_dir)
    return run_dir


@contextmanager
def _stopped_by_signals(run_dir: Path) -> Iterator[None]:
    """What a signal ends while a trained run is evaluated, and how to get it."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(
            f"{signal.Signals(signum).name} while the report was made: the training is complete; to make its report,"
            f" type python src/train.py {to_type('resume', run_dir)}",
            signum,
        )

    before = {signum: signal.signal(signum, stop) for signum in TO_STOP}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _folder(cfg: DictConfig, key: str) -> tuple[Path, bool]:
    """What `key` says, which this process can write to; and whether someone typed it. A sweep's job has a folder of
    its own in there."""
    hydra = HydraConfig.get()
    in_sweep = hydra.mode == RunMode.MULTIRUN and key != "resume"
    folder = Path(hydra.runtime.output_dir if in_sweep else cfg[key]).absolute()
    check_place(folder, key)
    return folder, any(typed.split("=", 1)[0].lstrip("+") == key for typed in hydra.overrides.task)


def _fit_on_all_ranks(config: stored.Config, run_dir: Path, resume: bool) -> None:
    world, devices = outside(), config["trainer"]["devices"]
    if world is not None:
        lead(world, config, run_dir, resume)
    elif devices > 1:
        launch(config, run_dir, devices, resume)
    else:
        fit(config, run_dir, resume)


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate a checkpoint on labelled sets; returns the folder of `metrics.json` and `report.html`."""
    from diptych.commands.prompted import about, chosen, lines, tell
    from diptych.model.load import load
    from diptych.report.page import write_report

    check_arguments("task", OmegaConf.to_container(cfg.task, resolve=True))
    folder, typed = _folder(cfg, "out")
    chosen(cfg.data.get("templates"))  # a file that is missing is said before a checkpoint is read
    loaded = load(_given(cfg, "checkpoint"), allow_targets=cfg.allow_targets)
    place(loaded.model)
    sets = _prompted_sets(cfg, loaded)
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


OF_SETS = ("evaluate", "shards", "sources", "captions", "files", "allow_pipe", "max_bad", "templates")
"""Keys of `data` that say what is evaluated; others follow from a training's config, which there is none of."""


def _settled(data: DictConfig, key: str) -> Any:
    value = data[key]
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def _prompted_sets(cfg: DictConfig, loaded: Loaded) -> list[EvalSet]:
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


def embed(cfg: DictConfig) -> Path:
    """Write a set's embeddings as Parquet; returns the file."""
    from diptych.commands.prompted import about, chosen, lines
    from diptych.model.load import load
    from diptych.tasks import zeroshot as assess

    folder, typed = _folder(cfg, "out")
    chosen(cfg.data.get("templates"))
    loaded = load(_given(cfg, "checkpoint"), allow_targets=cfg.allow_targets)
    place(loaded.model)
    with shared(results(folder, numbered=not typed)) as out:
        sets = _prompted_sets(cfg, loaded)
        file, skipped = assess.write_embeddings(out, loaded, sets)
        say("\n".join([lines(about(loaded, sets)), *skipped, f"embeddings: {file}"]))
    return file


def pack(cfg: DictConfig) -> None:
    """Write shards and their index from a source."""
    instantiate(cfg.source, _convert_="all")


def convert(cfg: DictConfig) -> Path:
    """Write a checkpoint in another format; returns the file or folder."""
    from diptych.interop.writing import convert as converted

    for key in ("checkpoint", "format", "out"):
        _given(cfg, key)
    arguments = {str(key): value for key, value in cfg.items() if key != "allow_targets"}
    with trusting(cfg.allow_targets):
        out = converted(**arguments)
    say(f"converted: {out}")
    return out


def plan(cfg: DictConfig) -> None:
    """Print what a step of this config would send, hold and take on other machines, and the cost by ranks."""
    import torch

    from diptych.plan.counting import count
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


def _given(cfg: DictConfig, key: str) -> str:
    if OmegaConf.is_missing(cfg, key):
        what = {"format": "diptych, openai, open_clip or huggingface", "out": "a new name"}
        raise UserError(f"{key}= is missing: type {key}={what.get(key, 'RUN_DIR or a checkpoint file')}.")
    return cfg[key]
