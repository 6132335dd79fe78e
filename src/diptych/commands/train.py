"""Train: `python src/train.py model=vit_b16 trainer=ddp`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diptych.base.errors import TO_STOP, Stopped
from diptych.base.files import refusing, write
from diptych.base.masking import masked
from diptych.base.terminal import say, to_type
from diptych.building.targets import announce_foreign, targets_in, trusting
from diptych.commands import stored
from diptych.commands.claim import TRAINS, held, new_run
from diptych.commands.config import check_start, validate
from diptych.commands.experiment import check_command
from diptych.commands.fit import (
    check_logger,
    check_loss,
    check_run_of,
    environment,
    fit,
    fix_templates,
    outline,
    report,
    warn_if_slow,
)
from diptych.commands.rank import follow, launch, lead
from diptych.commands.resume import check_order, check_parts, check_run, named_places, resumed_config
from diptych.commands.typed import folder_of
from diptych.commands.vocabulary import keep_vocabulary
from diptych.launch.slurm import started_again
from diptych.launch.world import outside


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
    run_dir, typed = folder_of(cfg, "run_dir" if cfg.resume is None else "resume")
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


def _fit_on_all_ranks(config: stored.Config, run_dir: Path, resume: bool) -> None:
    world, devices = outside(), config["trainer"]["devices"]
    if world is not None:
        lead(world, config, run_dir, resume)
    elif devices > 1:
        launch(config, run_dir, devices, resume)
    else:
        fit(config, run_dir, resume)
