"""Wrong command lines, one after the other: each is one sentence that names the key, before a folder or data."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.base.files import ROOT
from diptych.commands.boundary import sentence
from diptych.commands.overrides import dashed, wrong_override

CONF = ROOT / "conf"
Cli = Callable[..., "object"]

KEYS = {  # what people type -> the key that they mean
    "lr": "optim.lr", "learning_rate": "optim.lr", "epochs": "samples", "max_epochs": "samples",
    "batch_size": "data.batch_size", "batch": "data.batch_size", "gpus": "trainer.devices",
    "devices": "trainer.devices", "num_workers": "data.workers", "precision": "trainer.precision",
    "weight_decay": "optim.weight_decay", "wd": "optim.weight_decay", "warmup": "schedule.warmup",
    "max_steps": "trainer.max_steps", "image_size": "model.image.image_size", "train_data": "data.shards",
    "optim.learning_rate": "optim.lr", "optim.lrr": "optim.lr", "accumulate_grad_batches": "trainer.accumulate",
}  # fmt: skip


@pytest.mark.parametrize("typed", KEYS)
def test_the_words_of_the_field_lead_to_our_keys(typed: str) -> None:
    said = wrong_override(CONF, "train", [f"{typed}=1"])
    assert said is not None and typed.rpartition(".")[2] in said and KEYS[typed] in said


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("train", ["name=a=b"], """The value of name holds =, .*"name='a=b'"."""),
        ("train", ["data.shards=http://h/x.tar?a=b"], "The value of data.shards holds ="),
        ("train", ["optim.lr"], "optim.lr is no override"),
        ("train", ["=3"], "=3 names no key"),
        ("train", ["optim.lr=[1,2"], r"The list of optim.lr has no end: type 'optim.lr=\[1,2\]'\."),
        ("train", ["data.templates=[a {}.,the {}]"], r"""type "data\.templates=\['a {}\.','the {}'\]"\."""),
        ("train", ["x=[1,'a {}',b{},[2,3]]"], r"""type "x=\[1,'a {}','b{}',\[2,3\]\]"\."""),
        ("train", ["name=a,b"], r"""type 'name=\[a,b\]' for a list, "name='a,b'" for one text, or add -m to sweep"""),
        ("train", ["x={a: b=c}"], "put each text that holds one in quotes"),
        ("train", ["model=rn5"], "model=rn5 is unknown: take rn50"),
        ("train", ["model=null"], "model=null is unknown"),
        ("train", ["-m", "model=rn_tiny,rn5"], "model=rn5 is unknown: take rn50"),
        ("train", ["nosuch/group=x"], "nosuch/group is unknown: there is no group"),
        ("train", ["experiment=x"], "experiment is unknown"),
        ("train", ["task=zeroshot"], "task= is no choice of train"),
        ("train", ["+optim.lr=1"], "optim.lr is there already: type optim.lr=1"),
        ("plan", ["gpus=8"], "did you mean ranks"),
        ("evaluate", ["ckpt=R"], "did you mean checkpoint"),
        ("pack", ["path=x"], "source= is missing: take one of emoji, folder, .* Usage: python src/pack.py source="),
    ],
    ids=str,
)
def test_a_wrong_override_is_named(command: str, arguments: list[str], words: str) -> None:
    import re

    said = wrong_override(CONF, command, arguments)
    assert said is not None and re.search(words, said), said


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--model", "vit_tiny"], "--model is no option: keys have no dashes, type model=VALUE."),
        (["seed=1", "--batch-size=8"], "--batch-size is no option: keys have no dashes, type batch_size=VALUE."),
        (["--cfg", "job"], None),
        (["--multi", "seed=1,2"], None),
        (["-m", "--config-dir=x"], None),
    ],
    ids=str,
)
def test_keys_typed_with_dashes_are_a_sentence(typed: list[str], said: str | None) -> None:
    assert dashed(typed) == said


def test_what_can_be_is_not_refused() -> None:
    for command, arguments in (
        (
            "train",
            ["model=rn50", "optim.lr=1", "+callbacks.mine._target_=a.B", "-m", "seed=1,2", "~callbacks.zeroshot"],
        ),
        ("train", ["model/text=cbow", "recipe=[demo,supervised]", "hydra.run.dir=x", "+sweeps=lr"]),
        ("pack", ["source=folder", "path=x", "out=y"]),
    ):
        assert wrong_override(CONF, command, arguments) is None


@pytest.mark.parametrize("command", ["train", "evaluate", "embed", "pack", "convert", "plan"])
def test_help_begins_with_how_the_command_is_typed(cli: Cli, command: str) -> None:
    ended = cli(command, "--help")
    assert ended.code == 0 and ended.out.startswith(f"Usage: python src/{command}.py "), ended


VALUES = {
    "optim.lr=high": "optim.lr=high must be a number",
    "optim.lr=-1": "optim.lr=-1 must be above 0",
    "optim.lr=null": "optim.lr=null must be a number",
    "optim.betas=[0.9]": "optim.betas=[0.9] must be a list of more values",
    "optim.betas=[2,3]": "must be below 1",
    "optim.weight_decay=-1": "optim.weight_decay=-1 must be at least 0",
    "schedule.warmup=x": "schedule.warmup=x must be a number",
    "data.batch_size=0": "data.batch_size=0 must be a whole number",
    "data.workers=-1": "data.workers=-1 must be at least 0",
    "data.workers=1.5": "data.workers=1.5 must be a whole number",
    "data.max_bad=x": "data.max_bad=x must be a number",
    "data.block=0": "data.block=0 must be at least 1",
    "data.image.size=x": "data.image.size=x must be a whole number",
    "data.files.retries=x": "data.files.retries=x must be a whole number",
    "data.augment=x": "data.augment=x must be callable",
    "trainer.max_steps=abc": "trainer.max_steps=abc must be a whole number",
    "trainer.log_every=0": "trainer.log_every=0 must be at least 1",
    "trainer.clip=-1": "trainer.clip=-1 must be above 0",
    "trainer.strategy=foo": "trainer.strategy=foo must be a section",
    "callbacks.zeroshot.every=x": "callbacks.zeroshot.every=x must be a whole number",
    "seed=-1": "seed=-1 must be a whole number from 0 to 4294967295",
    "seed=1099511627776": "seed=1099511627776 must be a whole number",
    "seed=null": "must be a whole number",
    "samples=x": "samples=x must be a whole number",
    "model.image.width=7.5": "model.image.width=7.5 must be a whole number",
    "model.image.layers=-1": "model.image.layers=-1 must be at least 1",
    "model.text.heads=0": "model.text.heads=0 must be at least 1",
    "+logger.group=x y": "logger.group is read by no logger: leave '+logger.group=x y' out, or take logger=wandb",
    "+experiment=x": "experiment is unknown to this command",
    "+optim.foo=1": "optim.foo is unknown: diptych.training.optim.adamw has no argument foo: leave +optim.foo=1 out.",
    "+optim.beta=1": "(did you mean optim.betas?): leave +optim.beta=1 out.",
    "~optim": "optim=None builds nothing",
    "optim.lr=${nothing}": "nothing",
    "trainer.precision=16": "trainer.precision=16 is unknown",
}


@pytest.mark.parametrize("typed", VALUES)
def test_a_wrong_value_is_one_sentence_before_there_is_a_folder(cli: Cli, tmp_path: Path, typed: str) -> None:
    given = ["model=vit_tiny", "trainer=cpu", "logger=none", "data.evaluate=null", typed, "run_dir=run"]
    ended = cli("train", *given)
    assert ended.code == 2 and VALUES[typed] in ended.err, ended.err
    assert ended.err.startswith("diptych: ") and ended.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_a_machine_refuses_is_a_sentence_and_our_own_faults_are_none() -> None:
    for number, words in (
        (errno.EACCES, "fix its permissions"),
        (errno.ENOSPC, "free disk space"),
        (errno.ENOENT, "check the path"),
    ):
        said = sentence(OSError(number, os.strerror(number), "/data/x.tar"), CONF)
        assert said is not None and said.startswith("/data/x.tar") and words in said
    assert "make room" in str(sentence(OSError(errno.ENOSPC, "No space left on device"), CONF))
    assert "smaller data.batch_size" in str(sentence(MemoryError(), CONF))
    assert "type `pip install nosuchthing`" in str(sentence(ModuleNotFoundError("", name="nosuchthing.a"), CONF))
    unused = RuntimeError("parameters that were not used in producing the loss returned by training_step")
    assert "finetune.logit_scale=false" in str(sentence(unused, CONF))
    for ours in (
        RuntimeError("x"),
        KeyError("x"),
        ZeroDivisionError(),
        TypeError("x"),
        ValueError("x"),
        AssertionError(),
    ):
        assert sentence(ours, CONF) is None
