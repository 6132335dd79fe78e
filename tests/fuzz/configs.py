"""Run folders from elsewhere: what a resume reads of config.yaml, checks and builds. And command lines."""

from __future__ import annotations

import copy
import os
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from fuzz import mutate
from fuzz.cases import Trial, secret_of
from fuzz.oracles import BAIT, CANARY
from omegaconf import DictConfig, OmegaConf

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.base.terminal import say
from diptych.building.build import make
from diptych.building.targets import targets_in, trusting
from diptych.commands import config as configs_of_runs
from diptych.commands import stored
from diptych.commands.boundary import sentence
from diptych.commands.config import arguments, check_start, validate, with_precision
from diptych.commands.fit import check_loss, outline
from diptych.commands.resolvers import register_resolvers
from diptych.commands.resume import named_places, resumed_config

os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
os.environ.setdefault("DIPTYCH_STAMP", "stamp")
register_resolvers()
SMALL = [
    "model=vit_tiny",
    "model.image.layers=1",
    "model.image.width=16",
    "model.image.heads=1",
    "model.text.layers=1",
    "model.text.width=16",
    "model.text.heads=1",
    "model.image.embed_dim=8",
    "model.text.embed_dim=8",
    "trainer=cpu",
    "logger=none",
    "name=x",
    "data.batch_size=8",
    "data.evaluate=null",
    "trainer.max_steps=2",
]


def composed(overrides: list[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides)


@cache
def plain() -> dict[str, Any]:
    """A small run's config as its folder has it."""
    found = OmegaConf.to_container(composed(SMALL), resolve=True)
    assert isinstance(found, dict)
    return found


@cache
def warmed() -> bool:
    """Imports that a training makes once are made before a case's clock runs."""
    with tempfile.TemporaryDirectory() as folder:
        build(copy.deepcopy(plain()), Path(folder))
    return True


@cache
def asked() -> DictConfig:
    """What `train.py resume=DIR` composes."""
    return composed(["resume=x", *SMALL])


# Where a folder's config is built from, and by whose hand.
BUILT = [
    "model",
    "model.image",
    "model.text",
    "model.image.activation",
    "data",
    "data.files",
    "data.image",
    "data.augment",
    "data.tokenizer",
    "loss",
    "optim",
    "schedule",
    "trainer",
    "trainer.strategy",
    "callbacks",
    "callbacks.progress",
    "callbacks.x",
    "logger",
    "finetune",
    "data.evaluate",
]


def spoiled(rng: Random, secret: str) -> dict[str, Any]:
    tree = copy.deepcopy(plain())
    if rng.random() < 0.4:
        return mutate.mutated(tree, rng, secret)
    for _ in range(rng.choice([1, 1, 2, 4])):
        node, keys = tree, rng.choice(BUILT).split(".")
        for key in keys[:-1]:
            node = node[key] if isinstance(node, dict) and isinstance(node.get(key), dict) else tree
        way, found = rng.random(), mutate.target(rng)
        value: Any = (
            found if way < 0.4 else mutate.interpolation(rng, secret) if way < 0.8 else mutate.odd(rng, secret)
        )
        if rng.random() < 0.5 and isinstance(node.get(keys[-1]), dict):
            node = node[keys[-1]]
            node[rng.choice(["_target_", "x", "activation", *map(str, node)])] = (
                value if not isinstance(value, dict) or rng.random() < 0.5 else value.get("_target_")
            )
        else:
            node[keys[-1]] = value
    return tree


def text(rng: Random, tree: dict[str, Any], secret: str) -> bytes:
    try:
        found = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5, sort_keys=False)
    except (yaml.YAMLError, ValueError, RecursionError):
        found = "model: " + "[" * 3000
    if rng.random() < 0.2:
        lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, rng.choice([3, 26])))]
        bombs = [
            "\n".join(lines),
            "x: &x {y: *x}",
            f"x: !!python/object/apply:{BAIT}.called [1]",
            "x: !!python/name:this.x",
            "name: x\nname: y",
            "<<: {seed: 1}",
            f"x: !include {secret}",
            "seed: !!int 'x'",
            "x: !!binary YQ==",
            "? {a: 1}\n: 2",
            "1: 2",
            "null: 3",
            "x: 1e400",
            "x: 2001-01-01",
            "x: 190:20:30",
            "x: *nothing",
            "\t",
            "x: [",
            "---\nseed: 3",
            "'a.b': 1",
            "x: '${oc.env:FUZZ_SECRET}'",
            'x: "\\${oc.env:FUZZ_SECRET}"',
            "x: >\n  ${oc.env:FUZZ_SECRET}",
        ]
        bomb = rng.choice(bombs)
        found = f"{bomb}\n{found}" if rng.random() < 0.5 else f"{found}\n{bomb}\n"
    data = found.encode(errors="surrogatepass")
    if rng.random() < 0.08:
        data = rng.choice(
            [
                b"\xef\xbb\xbf" + data,
                found.encode("utf-16", "replace"),
                data + b"\xff",
                b"",
                b"\0",
                b"[]",
                b"7",
                b"- a",
                mutate.data(data, rng),
                data * 2,
                data.replace(b":", b"\xe2\x80\xa8:", 3),
            ]
        )
    return data


def build(config: dict[str, Any], run_dir: Path) -> None:
    """What a training checks, writes and builds of a config, as `train.train` and `fit.fit` do."""
    config = with_precision(config)
    validate(config)
    with trusting({target for _, target in targets_in(config)}):
        check_loss(config)
        outline(config)
        stored.write(config, run_dir)
        for key in ("loss", "optim", "schedule", "logger", "finetune"):
            if config.get(key):
                make(config[key], key)
        for key, callback in config["callbacks"].items():
            if callback:
                make(callback, f"callbacks.{key}")
        make(arguments(config, "trainer"), "trainer")
        make(arguments(config, "data"), "data")


def configs(rng: Random, folder: Path) -> Trial:
    assert warmed()
    run_dir = folder / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_bytes(text(rng, spoiled(rng, secret_of(folder)), secret_of(folder)))
    overrides = rng.choice(
        [[], [], [], ["trainer.log_every=5"], ["data.workers=1"], ["trainer=cpu"], ["seed=3"], [f"x={CANARY[:0]}1"]]
    )
    before = (run_dir / "config.yaml").read_bytes()

    def call() -> object:
        config = resumed_config(copy.deepcopy(asked()), run_dir, overrides)
        for named in named_places(config, overrides, begins=True):
            say(named)
        build(config, run_dir)
        return yaml.safe_dump(config)

    def outputs() -> list[Path]:
        file = run_dir / "config.yaml"
        return [file] if file.is_file() and file.read_bytes() != before else []

    return Trial(call, outputs=outputs)


KEYS = [
    "optim.lr",
    "lr",
    "seed",
    "name",
    "data",
    "data.shards",
    "data.batch_size",
    "data.streams",
    "data.workers",
    "data.max_bad",
    "trainer.max_steps",
    "trainer.devices",
    "trainer.precision",
    "trainer.accumulate",
    "trainer",
    "model",
    "model.text",
    "model.image.width",
    "model.image.activation",
    "loss",
    "loss.tile",
    "logger",
    "+logger.group",
    "+x",
    "~model",
    "~optim.lr",
    "++seed",
    "+model.image._target_",
    "callbacks",
    "recipe",
    "experiment",
    "epochs",
    "batch_size",
    "gpus",
    "samples",
    "schedule.warmup",
    "run_dir",
    "hydra.run.dir",
    "data.files.retries",
    "finetune.image",
    "model.pretrained",
    "allow_targets",
    "resume",
    "optim.betas",
    "callbacks.zeroshot.every",
    "",
    "data.sources",
    "a.b.c",
    "data.image.size",
]
VALUES = [
    "1",
    "0",
    "-1",
    "2",
    "high",
    "null",
    "",
    "1e-3",
    "0.5",
    "[1,2]",
    "{a: 1}",
    "a=b",
    "x/{0..3}.tar",
    "${seed}",
    "${oc.env:FUZZ_SECRET}",
    "'${oc.env:FUZZ_SECRET}'",
    "\\${oc.env:FUZZ_SECRET}",
    "${lines:/etc/passwd,x}",
    "${",
    "../../x",
    "a b",
    "'",
    '"',
    "1,2",
    "inf",
    "nan",
    "true",
    "é",
    "\x1b[2J",
    "???",
    "{_target_: fuzz.bait.called}",
    "10000000000000000000000",
    "cpu",
    "ddp",
    "fsdp",
    "vit_tiny",
    "rn_tiny",
    "adamw",
    "muon",
    "clip",
    "siglip",
    "none",
    "wandb",
    "emoji",
    "folder",
    "webdataset",
    "[[[",
    "choice(1,2)",
    "range(3)",
    "a\nb",
    "\u2028",
    "1_000",
    "0x10",
    "bf16-mixed",
    "fuzz.bait.called",
]


def commands(rng: Random, folder: Path) -> Trial:
    """`train.py key=value …`: refused in a sentence before any data is read, or sound. What the user types is
    trusted, so a class that the command line names may be called."""
    assert warmed()
    overrides = list(SMALL[: rng.choice([0, len(SMALL)])]) + [
        f"{rng.choice(KEYS)}{rng.choice(['=', '=', '=', '=', '', '=='])}{rng.choice(VALUES)}"
        for _ in range(rng.choice([1, 1, 2, 3]))
    ]
    if any("FUZZ_SECRET" in each or "_target_" in each or "bait" in each for each in overrides):
        overrides = [each for each in overrides if "bait" not in each and "_target_" not in each]

    def call() -> object:
        try:
            cfg = composed(overrides)
            cfg.name = "x"
            config = configs_of_runs.composed(cfg)
            validate(config)
            check_start(config)
            with trusting({target for _, target in targets_in(config)}):
                check_loss(config)
                outline(config)
        except Exception as error:
            told = sentence(error, ROOT / "conf", "train", overrides)
            if told is None:
                raise
            raise UserError(told) from error
        return sorted(cfg)

    secret = any("FUZZ_SECRET" in each for each in overrides)
    if secret:  # whose environment it is may print it

        def quiet() -> object:
            try:
                call()
            except UserError:
                return ""
            return ""

        return Trial(quiet)
    return Trial(call)
