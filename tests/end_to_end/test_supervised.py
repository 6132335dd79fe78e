"""`recipe=supervised` and `recipe=visual_ngrams` with other models and data than the demo's, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from samples import COLOURS, benchmark, write_shards

Cli = Callable[..., "object"]
SHORT = ("data.batch_size=16", "trainer.max_steps=2", "logger=none", "trainer.precision=32-true", "data.workers=0")


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[str, ...]:
    """Shards with a label in their .json, two sets to validate on, and a list of the classes."""

    def with_label(number: int, sample: dict) -> dict:
        return sample | {"json": json.dumps({"label": list(COLOURS)[number % 4]}).encode()}

    index = write_shards(tmp_path / "shards", [16, 16], with_label)
    benchmark(tmp_path / "sets/known")
    benchmark(tmp_path / "sets/other")
    (tmp_path / "sets/other/classnames.txt").write_text("red\ngreen\nteal\nolive\n")
    (tmp_path / "classes.txt").write_text("\n".join(COLOURS) + "\n")
    return ("data=webdataset", f"data.shards={index}")


def sets(tmp_path: Path, name: str = "") -> str:
    path = tmp_path / "sets" / name
    return f"data.evaluate={{_target_: diptych.data.sets.benchmark_set.benchmark_sets, path: {path}}}"


def test_a_supervised_run_on_own_shards(cli: Cli, labelled: tuple[str, ...], tmp_path: Path) -> None:
    """The sets of its classes get a number, without a template; the others are named with the reason."""
    run = tmp_path / "run"
    classes = f"classes={tmp_path / 'classes.txt'}"
    ended = cli(
        "train", "recipe=supervised", "model=vit_tiny", *labelled, classes, sets(tmp_path), *SHORT, f"run_dir={run}"
    )
    assert ended.code == 0, ended.err
    zeroshot = json.loads((run / "metrics.json").read_text())["zeroshot"]
    assert list(zeroshot["sets"]) == ["known"]
    why = "2 of its 4 class names are, or hold, none of the model's 4 phrases"
    assert zeroshot["not_computed"] == {"other": why}
    assert f"other: not computed, {why}" in ended.out
    assert f"other: not computed, {why}" in (run / "report.html").read_text().replace("&#39;", "'")
    again = cli("evaluate", f"checkpoint={run}", "data=benchmark", f"data.path={tmp_path / 'sets/known'}")
    assert again.code == 0 and f"{zeroshot['sets']['known']['top1']:.1%}" in again.out
    other = cli("evaluate", f"checkpoint={run}", "data=benchmark", f"data.path={tmp_path / 'sets/other'}")
    assert other.code == 2 and f"knows the class names of none of the sets: other: {why}" in other.err


def test_visual_ngrams_on_own_shards(cli: Cli, labelled: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "ngrams.txt").write_text("a\nred\nsquare\nred square\n")
    ngrams = f"ngrams={tmp_path / 'ngrams.txt'}"
    ended = cli("train", "recipe=visual_ngrams", "model=rn_tiny", *labelled, ngrams, *SHORT)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recipe=supervised"], "classes= is missing"),
        (["recipe=visual_ngrams"], "ngrams= is missing"),
        (["recipe=supervised", "classes=none.txt"], "none.txt is missing"),
        (["recipe=supervised", "classes=@", "data.evaluate=@"], "can encode no set of data.evaluate. other:"),
    ],
)
def test_what_is_missing_dies_at_once(
    cli: Cli, labelled: tuple[str, ...], tmp_path: Path, arguments: list[str], said: str
) -> None:
    given = {"classes=@": f"classes={tmp_path / 'classes.txt'}", "data.evaluate=@": sets(tmp_path, "other")}
    run = tmp_path / "run"
    ended = cli("train", *[given.get(each, each) for each in arguments], *labelled, *SHORT, f"run_dir={run}")
    assert ended.code == 2 and said in ended.err and len(ended.err.strip().splitlines()) == 1
    assert not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_rn101_as_the_docs_say(cli: Cli, labelled: tuple[str, ...], tmp_path: Path) -> None:
    """At its own 224 pixels, without the demo's augmentation."""
    run = tmp_path / "run"
    classes = f"classes={tmp_path / 'classes.txt'}"
    short = ("data.batch_size=4", "trainer.max_steps=1", "logger=none", "data.workers=0", f"run_dir={run}")
    ended = cli("train", "recipe=supervised", "model=rn101", *labelled, classes, *short)
    assert ended.code == 0, ended.err
    told = json.loads((run / "metrics.json").read_text())["training"]
    assert told["steps"] == 1 and told["augmentation"] == "CLIP's square crop alone"
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    (head,) = (weight for name, weight in weights.items() if name.endswith("attnpool.c_proj.weight"))
    assert head.shape == (4, 2048)
