"""How every command begins and ends: its config is composed, its errors are said as sentences."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diptych.base.errors import RankFailed, Stopped, UserError
from diptych.base.files import ROOT
from diptych.base.terminal import complain, say
from diptych.commands.boundary import sentence
from diptych.commands.overrides import added_to_nothing, short_help
from diptych.commands.rank import follow
from diptych.commands.resolvers import register_resolvers
from diptych.commands.sweeps import masked_records
from diptych.commands.typed import quote, whole_lists
from diptych.launch.sharing import agree_on_folder
from diptych.launch.slurm import requeue
from diptych.launch.world import adopt, outside, refuse_leftovers

register_resolvers()  # on import, for jobs that a cluster's launcher unpickles


def main(command: str) -> None:
    """Run the command of `diptych.commands.COMMAND` with the config that the command line composes; a user's mistake
    is one sentence and code 2."""
    action = getattr(import_module(f"diptych.commands.{command}"), command)
    os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
    os.environ.setdefault("DIPTYCH_STAMP", time.strftime("%Y-%m-%d_%H-%M-%S"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us whole, and we say what matters
    sys.argv[1:] = [part for argument in map(quote, sys.argv[1:]) for part in whole_lists(argument)]

    def job(cfg: DictConfig) -> None:
        # Caught here too: Hydra would print a line of its own before the error leaves the job.
        with _one_sentence(command):
            if wrong := added_to_nothing(ROOT / "conf", HydraConfig.get().overrides.task):
                raise UserError(wrong)
            action(cfg)

    if told := short_help(ROOT / "conf", command, sys.argv[1:]):
        say(told)
        return
    with _one_sentence(command):
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
    """Where torchrun or srun has started this process: only rank 0 returns, to compose the config for all."""
    world = outside()
    if world is None:
        return
    adopt(world)
    if world.rank > 0:
        follow()
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(f"{world.launcher} has started ranks for one run: type a sweep without it.")
