"""How every command begins and ends: Hydra composes its config, and its errors become sentences.

Hydra writes and prints configs too (multirun.yaml, `--cfg`). `masked_records` keeps secrets out of them. `OneSweep`
keeps a sweep from writing over another one's record.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from diptych.base.errors import RankFailed, Stopped, UserError
from diptych.base.files import ROOT
from diptych.base.masking import masked
from diptych.base.terminal import complain, say
from diptych.commands.boundary import sentence
from diptych.commands.overrides import added_to_nothing, dashed, quote, short_help, whole_lists
from diptych.commands.rank import follow
from diptych.commands.resolvers import register_resolvers
from diptych.launch.world import adopt, agree_on_folder, outside, refuse_leftovers, requeue

register_resolvers()  # on import, for jobs of a cluster, which Hydra's launcher unpickles


def main(command: str) -> None:
    """Run the function of `diptych.commands.COMMAND` with the config of the command line. A user's mistake ends it
    with one sentence and exit code 2."""
    action = getattr(import_module(f"diptych.commands.{command}"), command)
    os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
    os.environ.setdefault("DIPTYCH_STAMP", time.strftime("%Y-%m-%d_%H-%M-%S"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `boundary` whole
    sys.argv[1:] = [part for argument in map(quote, sys.argv[1:]) for part in whole_lists(argument)]

    def job(cfg: DictConfig) -> None:
        # Errors are caught here too: otherwise Hydra prints a line of its own.
        with _one_sentence(command):
            if wrong := added_to_nothing(ROOT / "conf", HydraConfig.get().overrides.task):
                raise UserError(wrong)
            action(cfg)

    if told := short_help(ROOT / "conf", command, sys.argv[1:]):
        say(told)
        return
    with _one_sentence(command):
        if wrong := dashed(sys.argv[1:]):
            raise UserError(wrong)
        refuse_leftovers()
        if command == "train":
            _join_others(sys.argv[1:])
        elif command in ("evaluate", "embed"):
            agree_on_folder()
        elif world := outside():
            raise UserError(f"{world.launcher} has started {world.size} ranks, and {command} is for one process.")
        with masked_records():
            hydra_main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=command)(job)()


@contextmanager
def _one_sentence(command: str) -> Iterator[None]:
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
        text = sentence(error, ROOT / "conf", command, sys.argv[1:])
        if text is None:
            raise
        complain(text)
        sys.exit(2)


def _join_others(arguments: list[str]) -> None:
    """If torchrun or srun has started this process: only rank 0 returns, to compose the config for all ranks."""
    world = outside()
    if world is None:
        return
    adopt(world)
    if world.rank > 0:
        follow()
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(f"{world.launcher} has started ranks for one run: type a sweep without it.")


class OneSweep(Callback):
    """Refuses a folder that has the record of another sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        record = Path(config.hydra.sweep.dir) / "multirun.yaml"
        if record.exists():
            complain(f"{record.parent} holds a sweep already: give another folder, or move that one away.")
            sys.exit(2)  # Hydra would turn any other exception into a warning


@contextmanager
def masked_records() -> Iterator[None]:
    """Mask the configs that Hydra writes or prints (multirun.yaml, .hydra/*.yaml, `--cfg`).

    Hydra makes all of them with `OmegaConf.to_yaml`, before a job runs any code of ours.
    """
    plain = OmegaConf.to_yaml

    def to_yaml(cfg: Any, *, resolve: bool = False, sort_keys: bool = False) -> str:
        content = OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True)
        return plain(OmegaConf.create(masked(content)), sort_keys=sort_keys)

    OmegaConf.to_yaml = staticmethod(to_yaml)  # type: ignore[method-assign]
    try:
        yield
    finally:
        OmegaConf.to_yaml = staticmethod(plain)  # type: ignore[method-assign]
