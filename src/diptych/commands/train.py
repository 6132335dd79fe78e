"""Train: `python src/train.py model=vit_b16 trainer=ddp`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diptych.base.errors import Stopped
from diptych.base.files import refusing, write
from diptych.base.masking import masked
from diptych.base.terminal import resume_command, say
from diptych.building.targets import announce_foreign, targets_in, trusting
from diptych.commands import stored
from diptych.commands.claim import TRAINS, folder_of, held, new_run
from diptych.commands.config import check_start, composed, validate, with_precision
from diptych.commands.evaluate import environment, report
from diptych.commands.experiment import check_command, check_order, check_run_of
from diptych.commands.fit import check_logger, check_loss, outline, warn_if_slow
from diptych.commands.rank import fit_on_all_ranks, follow, on_stop
from diptych.commands.resume import check_run, named_places, recover, resumed_config
from diptych.commands.stored import Config
from diptych.launch.world import outside, started_again

Checkpoint = Mapping[str, Any]


def train(cfg: DictConfig) -> Path:
    """Train a new run, or resume one; returns the run's folder."""
    world = outside()
    if world is not None and world.rank > 0:  # started by a launcher of Hydra's for clusters, not through `main`
        follow()
    if cfg.resume is not None:
        check_run(Path(str(cfg.resume)).absolute())
    run_dir, typed = folder_of(cfg, "run_dir" if cfg.resume is None else "resume")
    began = cfg.resume is not None or (started_again() and (run_dir / stored.CONFIG).is_file())
    checkpoint: Checkpoint | None = None
    with ExitStack() as stack:
        if began:
            stack.enter_context(held(run_dir, TRAINS))
            config, checkpoint = _resumed(cfg, run_dir)
        else:
            config = composed(cfg)
        stack.enter_context(trusting({target for _, target in targets_in(config)}))
        _check(config, checkpoint, run_dir)
        if not began:
            run_dir = stack.enter_context(new_run(run_dir, numbered=not typed))
        _write_start(config, run_dir, new=checkpoint is None)
        fit_on_all_ranks(config, run_dir, resume=checkpoint is not None)
        with on_stop(_tell_how_to_get_the_report(run_dir)):
            report(config, run_dir)
    return run_dir


def _resumed(cfg: DictConfig, run_dir: Path) -> tuple[Config, Checkpoint | None]:
    """The run's config, and its newest whole checkpoint, None where there is none yet."""
    from diptych.model.load import read_checkpoint

    overrides = HydraConfig.get().overrides.task
    if cfg.resume is None:  # a job that was started again, with the command that began the run
        check_command(masked(composed(cfg)), stored.read(run_dir, f"run_dir={run_dir}"), run_dir)
        overrides = []
    config = with_precision(resumed_config(cfg, run_dir, overrides))
    last = recover(run_dir)
    if named := named_places(config, overrides, begins=last is None):
        say(f"data: reads what the run's config names: {', '.join(named)}")
    if last is None:
        say("No checkpoint was written yet: the run starts again from step 0.")
        return config, None
    checkpoint = read_checkpoint(last)
    check_order(checkpoint, run_dir)
    return config, checkpoint


def _check(config: Config, checkpoint: Checkpoint | None, run_dir: Path) -> None:
    """Everything that can be wrong before data is read and anything is written. checkpoint: None for a new run"""
    from diptych.commands.sets import fix_templates

    validate(config)
    if checkpoint is None:
        check_start(config)
        fix_templates(config["data"])
    check_loss(config)
    check_logger(config)
    model = outline(config)
    announce_foreign(config)
    warn_if_slow(config, model)
    if checkpoint is not None:
        check_run_of(checkpoint, config, run_dir, model)


def _write_start(config: Config, run_dir: Path, new: bool) -> None:
    with refusing(run_dir / "checkpoints"):
        (run_dir / "checkpoints").mkdir(exist_ok=True)
    if new:
        stored.keep_vocabulary(config, run_dir)
    stored.write(config, run_dir)
    write(run_dir / "environment.txt", environment())


def _tell_how_to_get_the_report(run_dir: Path) -> Callable[[int, FrameType | None], None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(
            f"{signal.Signals(signum).name} while the report was made: the training is complete; to make its report,"
            f" type {resume_command(run_dir)}",
            signum,
        )

    return stop
