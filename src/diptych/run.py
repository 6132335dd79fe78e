"""How a config becomes a run: compose -> validate -> instantiate -> fit -> assess -> report.

The only module that holds a raw config. Everything it builds takes plain arguments.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diptych.config import (
    ROOT,
    check_start,
    quote_braces,
    register_resolvers,
    sentence,
    split_pretrained,
    user_error,
    validate,
)
from diptych.errors import RankFailed, Stopped, UserError
from diptych.ranks import follow, launch, lead
from diptych.slurm import requeue, requeued
from diptych.targets import refuse_foreign_targets
from diptych.vocabulary import carrying_vocabulary, keep_vocabulary, name_vocabulary
from diptych.world import adopt, nodes, outside

register_resolvers()  # on import, for jobs that a cluster's launcher unpickles

if TYPE_CHECKING:
    from lightning import Trainer

    from diptych.data.evalset import EvalSet
    from diptych.towers.clip import CLIP

# What may change when a run goes on: nothing here touches the experiment.
RESUMABLE = (
    "trainer",
    "trainer.devices",
    "trainer.accelerator",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.checkpoint_minutes",
    "trainer.keep",
    "trainer.timeout",
    "data.workers",
    "data.memory",
    "data.stall",
    "data.allow_pipe",
    "data.files.retries",
    "data.files.timeout",
    "data.files.backoff",
    "data.files.cache",
    "data.files.cache_gb",
    "logger",
    "callbacks.progress",
    "allow_targets",
)


def main(config_name: str, action: Callable[[DictConfig], Any]) -> None:
    """Run `action` with the config that the command line composes; a user's mistake is one sentence and code 2."""
    os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
    os.environ.setdefault("DIPTYCH_STAMP", time.strftime("%Y-%m-%d_%H-%M-%S"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us whole, and we say what matters
    sys.argv[1:] = map(quote_braces, sys.argv[1:])

    def job(cfg: DictConfig) -> None:
        # Caught here too: Hydra would print a line of its own before the error leaves the job.
        with _one_sentence(config_name):
            action(cfg)

    with _one_sentence(config_name):
        if config_name == "train":
            _join_others(sys.argv[1:])
        hydra_main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(job)()


@contextmanager
def _one_sentence(config_name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Stopped as stopped:
        if str(stopped):
            print(f"diptych: {stopped}", file=sys.stderr)
        requeue(stopped)
        sys.exit(stopped.code)
    except RankFailed as failed:
        print(f"diptych: {failed}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        text = sentence(error, config_name, sys.argv[1:])
        if text is None:
            raise
        print(f"diptych: {text}", file=sys.stderr)
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
    from diptych.recovery import recover
    from diptych.training.trainer import resolve_precision

    world = outside()
    if world is not None and world.rank > 0:  # a task of a cluster's launcher, which didn't come through `main`
        follow()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    again = requeued() and (run_dir / "config.yaml").is_file()
    resume = cfg.resume is not None or again
    if resume:
        cfg = _resumed(cfg, run_dir, [] if again else HydraConfig.get().overrides.task)
        if recover(run_dir) is None:
            resume = False
            print("No checkpoint was written yet: the run starts again from step 0.", flush=True)
    cfg.trainer.precision = resolve_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    validate(cfg)
    if not resume:
        check_start(cfg)
    _warn_if_slow(cfg)
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    if not resume:
        keep_vocabulary(cfg, run_dir)
    _write(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    _write(run_dir / "environment.txt", environment())
    print(f"run: {run_dir}", flush=True)
    _fit_on_all_ranks(run_dir, cfg.trainer.devices, resume)
    report(run_dir)
    return run_dir


def _fit_on_all_ranks(run_dir: Path, devices: int, resume: bool) -> None:
    world = outside()
    if world is not None:
        lead(world, run_dir, resume)
    elif devices > 1:
        launch(run_dir, devices, resume)
    else:
        fit(run_dir, resume)


def fit(run_dir: Path, resume: bool) -> None:
    """Train the run whose resolved config lies in `run_dir`, as the one process or as one rank of several."""
    import lightning as L
    import torch

    from diptych.loading import read_checkpoint
    from diptych.training.loggers import MetricsFile
    from diptych.training.module import ContrastiveModule

    cfg = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    assert isinstance(cfg, dict)
    L.seed_everything(cfg["seed"], verbose=False)
    last = run_dir / "checkpoints" / "last.ckpt"
    start = int(read_checkpoint(last)["global_step"]) if resume else 0
    model, described, notes = _model(cfg, start=not resume)
    first = int(os.environ.get("RANK", 0)) == 0
    if first:
        print("".join(f"model: {note}\n" for note in notes), end="", flush=True)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = instantiate(cfg["data"], _convert_="all")
    data.start = start
    data.evaluate = _affordable(data.evaluate, model)
    module = ContrastiveModule(
        model,
        instantiate(cfg["loss"], _convert_="all"),
        instantiate(cfg["optim"], _convert_="all"),
        instantiate(cfg["schedule"], _convert_="all"),
        cfg["trainer"]["max_steps"],
        {"model": carrying_vocabulary(described), "name": cfg["name"], "seed": cfg["seed"]},
    )
    loggers = [MetricsFile(run_dir / "metrics.jsonl", resume_from=start)]
    if cfg["logger"] and first:
        loggers.append(instantiate(cfg["logger"])(run_dir=str(run_dir), config=cfg))
    callbacks = [instantiate(callback, _convert_="all") for callback in cfg["callbacks"].values() if callback]
    trainer = instantiate(cfg["trainer"], _convert_="all")(
        run_dir=run_dir, nodes=nodes(), callbacks=callbacks, loggers=loggers
    )
    begin = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    if trainer.is_global_zero:
        _write_training(run_dir, trainer, data, time.perf_counter() - begin)


def _model(cfg: dict[Any, Any], start: bool) -> tuple[CLIP, dict[str, Any], list[str]]:
    """The config's model, with the weights it starts from and with what is not trained frozen; what a checkpoint
    says of it; and notes for the log. start: whether the run is new, and reads those weights"""
    described, paths = split_pretrained(cfg["model"])
    model = instantiate(described, _convert_="all")
    notes = []
    if start and paths:
        from diptych.pretrained import start_from

        notes = [note for tower, path in paths.items() for note in start_from(model, path, tower)]
    if "finetune" in cfg:  # not in the config of a run from before there was any
        notes += instantiate(cfg["finetune"])(model)
    return model, described, notes


def _write_training(run_dir: Path, trainer: Trainer, data: Any, seconds: float) -> None:
    epoch = data.order
    training = {
        "steps": trainer.global_step,
        "seconds": round(seconds, 1),
        "pairs": trainer.global_step * data.batch_size,
        "samples": epoch.samples,
        "epochs": round(trainer.global_step / epoch.steps, 2),
        "left_out_each_epoch": epoch.remainder,
        "augmentation": data.augment.describe() if data.augment else "CLIP's square crop alone",
    }
    _write(run_dir / "metrics.json", json.dumps({"training": training}, indent=1) + "\n")


def report(run_dir: Path) -> None:
    """Evaluate the finished run from its files, and write the page."""
    from diptych import assess
    from diptych.loading import load
    from diptych.study.report import write_report

    cfg = OmegaConf.load(run_dir / "config.yaml")
    sets = instantiate(cfg.data.evaluate, _convert_="all") if cfg.data.evaluate else None
    if sets:
        loaded = load(run_dir)
        assess.write_all(run_dir, loaded, _affordable(sets, loaded.model))
        print(assess.table(json.loads((run_dir / "metrics.json").read_text())), flush=True)
    print(f"report: {write_report(run_dir)}", flush=True)


def _affordable(sets: list[EvalSet], model: CLIP) -> list[EvalSet]:
    """After a training on a CPU, a sample of each set where all pictures would take far longer than two minutes;
    `evaluate.py` always takes all."""
    import torch

    from diptych.cost import affordable_pictures

    pictures = sum(map(len, sets))
    count = pictures if torch.cuda.is_available() else affordable_pictures(model)
    return (
        [evalset.sample(max(10, len(evalset) * count // pictures)) for evalset in sets] if count < pictures else sets
    )


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate a checkpoint on labelled sets; returns the folder of `metrics.json` and `report.html`."""
    from diptych import assess
    from diptych.loading import load
    from diptych.study.report import write_report

    out = Path(HydraConfig.get().runtime.output_dir)
    loaded = load(_given(cfg, "checkpoint"))
    sets = instantiate(cfg.data.evaluate, _convert_="all")
    _write(out / "config.yaml", OmegaConf.to_yaml(cfg, resolve=False))
    _write(out / "environment.txt", environment())
    metrics = instantiate(cfg.task, _convert_="all")(out, loaded, sets)
    print(assess.table(metrics), flush=True)
    print(f"report: {write_report(out)}", flush=True)
    return out


def embed(cfg: DictConfig) -> Path:
    """Write a set's embeddings as Parquet; returns the file."""
    from diptych import assess
    from diptych.loading import load

    out = Path(HydraConfig.get().runtime.output_dir)
    loaded = load(_given(cfg, "checkpoint"))
    file = assess.write_embeddings(out, loaded, instantiate(cfg.data.evaluate, _convert_="all"))
    print(f"embeddings: {file}", flush=True)
    return file


def pack(cfg: DictConfig) -> None:
    """Write shards and their index from a source."""
    instantiate(cfg.source, _convert_="all")


def convert(cfg: DictConfig) -> Path:
    """Write a checkpoint in another format; returns the file or folder."""
    from diptych.interop.writing import convert as write

    for key in ("checkpoint", "format", "out"):
        _given(cfg, key)
    out = write(**{str(key): value for key, value in cfg.items()})
    print(f"converted: {out}", flush=True)
    return out


def _given(cfg: DictConfig, key: str) -> str:
    if OmegaConf.is_missing(cfg, key):
        what = {"format": "diptych, openai, open_clip or huggingface", "out": "a new name"}
        raise UserError(f"{key}= is missing: type {key}={what.get(key, 'RUN_DIR or a checkpoint file')}.")
    return cfg[key]


def _resumed(cfg: DictConfig, run_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """The run's own config, with what the command line may change. Raises UserError for the rest."""
    stored = run_dir / "config.yaml"
    if not stored.is_file():
        if not any(run_dir.iterdir()):
            run_dir.rmdir()  # Hydra made it
        raise UserError(f"resume={run_dir} can't go on: config.yaml is missing there.")
    resumed = OmegaConf.load(stored)
    assert isinstance(resumed, DictConfig)
    if "allow_pipe" in resumed.data:
        resumed.data.allow_pipe = False  # a folder from elsewhere must not run programs: this command line says it
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if key == "resume":
            continue
        if key not in RESUMABLE:
            raise UserError(
                f"{key} belongs to the experiment and can't change on resume={run_dir}:"
                " leave it out, or start a new run."
            )
        if key == "trainer":
            for name in ("devices", "accelerator"):
                OmegaConf.update(resumed, f"trainer.{name}", cfg.trainer[name])
        else:
            OmegaConf.update(resumed, key, OmegaConf.select(cfg, key))
    OmegaConf.update(resumed, "allow_targets", cfg.allow_targets)  # what the folder says of it does not count
    refuse_foreign_targets(OmegaConf.to_container(resumed, resolve=True), run_dir, cfg.allow_targets)  # type: ignore[arg-type]
    name_vocabulary(resumed, run_dir)
    return resumed


def _warn_if_slow(cfg: DictConfig) -> None:
    """One sentence, on a machine without a GPU, when a step will take long. The model is built without memory, so
    one that can't be built or frozen as said is refused here."""
    import torch

    from diptych.cost import CPU_FLOPS_PER_CORE, training_flops

    with torch.device("meta"):
        model, *_ = _model(OmegaConf.to_container(cfg, resolve=True), start=False)  # type: ignore[arg-type]
    if torch.cuda.is_available():
        return
    flops = training_flops(model) * cfg.data.batch_size
    seconds = flops / (CPU_FLOPS_PER_CORE * (os.cpu_count() or 1))
    if seconds > 5:
        print(
            f"diptych: without a GPU a step of this model takes very roughly {seconds:,.0f} s"
            f" ({flops / 1e12:.1f} TFLOP); to see learning in minutes type"
            " `python src/train.py recipe=demo`, or model=vit_tiny.",
            flush=True,
        )


def environment() -> str:
    """The machine and every installed package, one a line."""
    from diptych.training.trainer import describe_hardware

    lines = [f"python {platform.python_version()}", f"system {platform.system()} {platform.machine()}"]
    lines += [f"cores {os.cpu_count()}", *(f"{key} {value}" for key, value in describe_hardware().items())]
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    return "\n".join([*lines, "", *packages]) + "\n"


def _write(file: Path, text: str) -> None:
    """Whole, or as it was before: a run that was killed meanwhile can go on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text)
    partial.replace(file)


__all__ = ["convert", "embed", "evaluate", "fit", "main", "pack", "report", "train", "user_error"]
