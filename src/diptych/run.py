"""How a config becomes a run: compose -> validate -> instantiate -> fit -> assess -> report.

The only module that holds a raw config. Everything it builds takes plain arguments.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method, instantiate
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
from diptych.resuming import check_parts, resumed_config
from diptych.sharing import agree_on_folder, own_device, shared
from diptych.slurm import requeue, requeued
from diptych.vocabulary import carrying_vocabulary, keep_vocabulary
from diptych.world import adopt, nodes, outside

NOT_OF_LOADER = ("labelled", "synonyms", "ngrams")  # keys of `data` that recipes and evaluations read

register_resolvers()  # on import, for jobs that a cluster's launcher unpickles

if TYPE_CHECKING:
    from lightning import Trainer

    from diptych.data.evalset import EvalSet
    from diptych.towers.clip import CLIP


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
        elif config_name in ("evaluate", "embed"):
            agree_on_folder()
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
    from diptych.training.precision import resolve_precision

    world = outside()
    if world is not None and world.rank > 0:  # a task of a cluster's launcher, which didn't come through `main`
        follow()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    again = requeued() and (run_dir / "config.yaml").is_file()
    resume = cfg.resume is not None or again
    if resume:
        cfg = resumed_config(cfg, run_dir, [] if again else HydraConfig.get().overrides.task)
        if recover(run_dir) is None:
            resume = False
            print("No checkpoint was written yet: the run starts again from step 0.", flush=True)
    cfg.trainer.precision = resolve_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    validate(cfg)
    if not resume:
        check_start(cfg)
    _check_loss(cfg)
    outline = _outline(cfg)
    _warn_if_slow(cfg, outline)
    if resume:
        check_parts(cfg, run_dir, outline)
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

    from diptych.cost import affordable
    from diptych.loading import read_checkpoint
    from diptych.training.compiling import compile_towers
    from diptych.training.loggers import MetricsFile
    from diptych.training.module import ContrastiveModule
    from diptych.training.precision import tower_dtype

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
    if cfg["model"].get("compile"):
        compile_towers(model)
    trainer_keys = dict(cfg["trainer"])
    accumulate = trainer_keys.pop("accumulate", 1)
    data = instantiate({k: v for k, v in cfg["data"].items() if k not in NOT_OF_LOADER}, _convert_="all")
    data.start = start
    data.evaluate = affordable(_readable(data.evaluate, model), model)
    loss = instantiate(cfg["loss"], _convert_="all")
    if first and hasattr(loss, "describe"):
        ranks = cfg["trainer"]["devices"] * nodes()
        device = "cuda" if cfg["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available() else "cpu"
        print(f"loss: {loss.describe(data.batch_size // ranks, ranks, device)}", flush=True)
    module = ContrastiveModule(
        model,
        loss,
        instantiate(cfg["optim"], _convert_="all"),
        instantiate(cfg["schedule"], _convert_="all"),
        cfg["trainer"]["max_steps"],
        {"model": carrying_vocabulary(described), "name": cfg["name"], "seed": cfg["seed"]},
        accumulate,
        tower_dtype(cfg["trainer"]["precision"]),
    )
    loggers = [MetricsFile(run_dir / "metrics.jsonl", resume_from=start)]
    if cfg["logger"] and first:
        loggers.append(instantiate(cfg["logger"])(run_dir=str(run_dir), config=cfg))
    callbacks = [instantiate(callback, _convert_="all") for callback in cfg["callbacks"].values() if callback]
    trainer = instantiate(trainer_keys, _convert_="all")(
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
    from diptych.training.callbacks.gradients import Gradients

    epoch = data.order
    training = {
        "steps": trainer.global_step,
        "nonfinite_steps": next(c for c in trainer.callbacks if isinstance(c, Gradients)).skipped,  # type: ignore[attr-defined]
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
    from diptych.cost import affordable
    from diptych.loading import load
    from diptych.study.report import write_report

    cfg = OmegaConf.load(run_dir / "config.yaml")
    sets = instantiate(cfg.data.evaluate, _convert_="all") if cfg.data.evaluate else None
    if sets:
        loaded = load(run_dir)
        loaded.model.to(own_device())
        assess.write_all(run_dir, loaded, affordable(sets, loaded.model))
        print(assess.table(json.loads((run_dir / "metrics.json").read_text())), flush=True)
    print(f"report: {write_report(run_dir)}", flush=True)


def _readable(sets: list[EvalSet], model: CLIP) -> list[EvalSet]:
    """Those whose class names the model reads: where it reads none, no training should find that out at its end."""
    from diptych.encode import readable

    kept, left = readable(model, sets)
    if left and not kept:
        name, why = next(iter(left.items()))
        raise UserError(f"The model reads none of data.evaluate's sets, {name}: {why}: take data.evaluate=null.")
    return kept


def evaluate(cfg: DictConfig) -> Path:
    """Evaluate a checkpoint on labelled sets; returns the folder of `metrics.json` and `report.html`."""
    from diptych.loading import load
    from diptych.study.report import write_report

    loaded = load(_given(cfg, "checkpoint"))
    loaded.model.to(own_device())
    sets = instantiate(cfg.data.evaluate, _convert_="all")
    with shared(Path(HydraConfig.get().runtime.output_dir)) as out:
        _write(out / "config.yaml", OmegaConf.to_yaml(cfg, resolve=False))
        _write(out / "environment.txt", environment())
        metrics = instantiate(cfg.task, _convert_="all")(out, loaded, sets)
        print(_table_of(cfg.task._target_)(metrics), flush=True)
        print(f"report: {write_report(out)}", flush=True)
    return out


def _table_of(task: str) -> Callable[[dict[str, Any]], str]:
    """What a task's module says of its metrics on the terminal."""
    return get_method(f"{task.rpartition('.')[0]}.table")


def embed(cfg: DictConfig) -> Path:
    """Write a set's embeddings as Parquet; returns the file."""
    from diptych import assess
    from diptych.loading import load

    loaded = load(_given(cfg, "checkpoint"))
    loaded.model.to(own_device())
    with shared(Path(HydraConfig.get().runtime.output_dir)) as out:
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


def plan(cfg: DictConfig) -> None:
    """Print what a step of this config would send, hold and take on other machines, and the cost by ranks."""
    import torch

    from diptych.plan.counting import count
    from diptych.plan.layout import arrange, check_whole, precision_named
    from diptych.plan.step import step_of
    from diptych.plan.table import table

    check_whole("samples", cfg.samples)
    precision, machine = precision_named(cfg.trainer.precision), instantiate(cfg.machine)
    loss, strategy = instantiate(cfg.loss, _convert_="all"), cfg.trainer.get("strategy") or {}
    shared = strategy.get("replicas"), strategy.get("activation_checkpointing", False)
    layout = arrange(cfg.ranks, cfg.data.batch_size, cfg.trainer.get("accumulate", 1), loss, *shared)
    with torch.device("meta"):
        model = instantiate(cfg.model, _convert_="all")
    counts = count(model, cfg.tokens or model.context_length, precision.half, layout.recompute)
    curve = [step_of(counts, other, precision, machine) for other in layout.alike(loss)]
    print(f"{HydraConfig.get().runtime.choices['model']}, {cfg.trainer.precision}", end=", ")
    print(table(counts, step_of(counts, layout, precision, machine), curve, machine, cfg.samples), flush=True)


def _given(cfg: DictConfig, key: str) -> str:
    if OmegaConf.is_missing(cfg, key):
        what = {"format": "diptych, openai, open_clip or huggingface", "out": "a new name"}
        raise UserError(f"{key}= is missing: type {key}={what.get(key, 'RUN_DIR or a checkpoint file')}.")
    return cfg[key]


def _outline(cfg: DictConfig) -> CLIP:
    """The model without memory. One that can't be built or frozen as said is refused here."""
    import torch

    with torch.device("meta"):
        return _model(OmegaConf.to_container(cfg, resolve=True), start=False)[0]  # type: ignore[arg-type]


def _check_loss(cfg: DictConfig) -> None:
    """The loss can be built, and gets groups if and only if it takes them."""
    loss = instantiate(cfg.loss, _convert_="all")
    takes = "groups" in inspect.signature(loss.forward).parameters
    field = cfg.data.get("groups")
    if takes and field is None:
        raise UserError(
            f"{cfg.loss._target_} needs to know which samples are of one concept: say data.groups=FIELD, a field of"
            " their .json, or take loss=clip."
        )
    if field is not None and not takes:
        raise UserError(
            f"data.groups={field} is nothing that {cfg.loss._target_} looks at: take loss=multi_positive, or leave"
            " data.groups out."
        )


def _warn_if_slow(cfg: DictConfig, model: CLIP) -> None:
    """One sentence, on a machine without a GPU, when a step will take long."""
    import torch

    from diptych.cost import CPU_FLOPS_PER_CORE, training_flops

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


__all__ = ["convert", "embed", "evaluate", "fit", "main", "pack", "plan", "report", "train", "user_error"]
