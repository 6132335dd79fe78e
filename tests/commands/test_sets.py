"""Whose prompts a set is asked with, and what is said of how it was read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.base.errors import UserError
from diptych.base.templates import CLIPS, OWN, PLAIN, RUNS
from diptych.commands.sets import about, lines, to_remember, with_templates
from diptych.data.sets import benchmarks
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.published import IMAGENET
from diptych.data.text.seen_words import LETTERS, read_record, record_of
from diptych.model.encode import tokenizer_for
from diptych.model.load import Loaded, load
from samples import COLOURS, benchmark, caption, picture


def evalset(name: str = "set", names: list[str] | None = None, prompts: str = OWN, **more: Any) -> EvalSet:
    classes = names or list(COLOURS)
    items = [(f"{name}/{n}", picture(n), n % len(classes), "") for n in range(8)]
    return EvalSet(name, classes, [PLAIN] if prompts == CLIPS else ["a {} square."], items, prompts=prompts, **more)


def asked(choice: Any, prompts: str, run: list[str]) -> tuple[str, list[str]]:
    (found,) = with_templates([evalset(prompts=prompts)], choice, run)
    return found.prompts, found.templates


def test_a_sets_own_templates_come_first_then_the_runs_then_clips(tmp_path: Path) -> None:
    run = ["a drawing of a {}."]
    assert asked(None, OWN, run) == (OWN, ["a {} square."])
    assert asked(None, CLIPS, run) == (RUNS, run)
    assert asked(None, CLIPS, []) == (CLIPS, [PLAIN])
    assert asked("run", OWN, run) == (RUNS, run)
    assert asked("simple", OWN, run) == (CLIPS, [PLAIN])
    assert asked("imagenet", OWN, run)[1] == benchmarks.templates(IMAGENET)
    (tmp_path / "mine.txt").write_text("\ufeffan icon: {c}\n", encoding="utf-8")
    assert asked(str(tmp_path / "mine.txt"), OWN, run) == ("data.templates", ["an icon: {}"])
    assert asked(["{c}!", "{}?"], CLIPS, run) == ("data.templates", ["{}!", "{}?"])
    retrieval = EvalSet("captions", [], [], [])
    assert with_templates([retrieval], "simple", run) == [retrieval]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("run", "data.templates=run, but the checkpoint remembers no templates"),
        ("none.txt", r"data.templates=none.txt is no file: give run, simple, imagenet, a file, or a list"),
        ("", "is no file"),
        ([], r"data.templates=\[\] is none of"),
        ([1], "is none of"),
        (3, "data.templates=3 is none of"),
        (["a photo"], r"data.templates: the template 'a photo' has no \{\}"),
    ],
)
def test_templates_that_are_none_are_refused(choice: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_templates([evalset()], choice, [])


def test_a_run_remembers_the_templates_of_its_validation_set() -> None:
    plain, test = evalset("plain", prompts=CLIPS), evalset("test")
    chosen = replace(evalset("chosen", role="validation"), templates=["{}"])
    assert to_remember([plain, test, chosen]) == ["{}"]
    assert to_remember([plain, test]) == ["a {} square."]
    assert to_remember([plain, EvalSet("captions", [], [], [])]) == []


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    torch.manual_seed(0)
    model = diptych.create_model("vit_tiny").eval()
    words = record_of(Counter(["a", "red", "green", "blue", "square", "cat"]), 1200)
    return Loaded(model, tokenizer_for(model), {"words": words}, 0, Path("none"))


def remarks(loaded: Loaded, found: EvalSet) -> list[str]:
    return about(loaded, [found])[found.name].get("remarks", [])


def test_what_can_never_be_right_is_said(loaded: Loaded) -> None:
    (said,) = remarks(loaded, evalset(names=["red", "green", "Red ", "blue", "red"]))
    assert said == (
        "classes that read as an earlier one, so that 3 pictures of theirs can't be right: 'Red ' (class 2, as class"
        " 0), 'red' (class 4, as class 0)"
    )
    twice = evalset(names=["red", "green"])
    twice.items = twice.items + twice.items[:1]
    assert remarks(loaded, twice) == ["keys that are there twice: 1 (set/0)"]
    assert remarks(loaded, evalset(names=["red", "", "green"])) == [
        "the class name of label 1 is blank: its prompts are the templates without a name"
    ]


def test_imagenets_two_names_that_occur_twice_stay(loaded: Loaded) -> None:
    names = benchmarks.class_names(IMAGENET)
    plain = Loaded(loaded.model, loaded.tokenizer, {}, 0, loaded.path)
    (said,) = remarks(plain, replace(evalset(names=names), templates=benchmarks.templates(IMAGENET)))
    assert said.startswith("classes that read as an earlier one") and "'missile' (class 744, as class 657)" in said


def test_names_that_are_cut_are_named(loaded: Loaded) -> None:
    long = "red " * 90
    both = remarks(loaded, evalset(names=[long + "cat", long + "square", "green", "red {} blue"]))
    assert both[0].startswith("classes that read as an earlier one, so that 2 pictures of theirs can't be right")
    assert both[1].startswith("class names whose prompts are cut at 77 tokens: 2 (red red")
    assert len(both) == 2


def test_words_that_training_never_had_are_said(loaded: Loaded) -> None:
    found = replace(evalset(names=["red", "dog", "red cat"]), templates=["a photo of a {}.", "{} square, itap"])
    assert remarks(loaded, found) == [
        "words of the prompts are in none of the first 1,200 captions that the model was trained on: photo, of, itap",
        "class names with words that are in none of the first 1,200 captions that the model was trained on: 1 of 3"
        " (dog)",
    ]


def test_a_record_of_words_is_bounded_and_not_trusted() -> None:
    counts = Counter({f"word{n}": n for n in range(40_000)})
    record = record_of(counts, 5)
    assert len(record["words"]) <= LETTERS and record["distinct"] == 40_000
    seen = read_record({"words": record})
    assert seen is not None and not seen.whole and "word39999" in seen.words and "word1" not in seen.words
    assert "most frequent of the first 5 captions" in seen.where()
    for told in (None, [], {}, {"words": "a", "captions": "1", "distinct": 1}, {"words": [], "captions": 1}):
        assert read_record({"words": told}) is None


def test_the_terminal_says_prompts_and_what_was_not_used_once(loaded: Loaded) -> None:
    unused = {"a folder without a picture": [f"empty{n}" for n in range(7)]}
    sets = [evalset(name, ["red", "green"], unused=unused) for name in ("one", "two")]
    (prompts, left) = lines(about(loaded, sets)).split("\n")
    digest = sets[0].hashes()["templates"]
    assert prompts == f"prompts of one, two: the set's own, 1 template ({digest[:12]}), the first 'a {{}} square.'"
    assert left == "one, two: not used, a folder without a picture: empty0, empty1, empty2, empty3, empty4 and 2 more"


def test_a_run_is_asked_on_a_folder_with_its_own_prompts(
    cli: Any, shards: Path, class_folder: Path, tmp_path: Path
) -> None:
    """From training to the page: what the checkpoint remembers, and where it is said."""
    benchmark(tmp_path / "usual")
    sets = [f"data.evaluate={{_target_: diptych.data.sets.benchmark_set.benchmark_sets, path: {tmp_path / 'usual'}}}"]
    given = ["data=webdataset", f"data.shards={shards}", "data.workers=0", "data.batch_size=16", "data.streams=8"]
    train = cli(
        "train", "model=vit_tiny", "trainer=cpu", "trainer.max_steps=5", "logger=none", *given, *sets, "run_dir=run"
    )
    assert train.code == 0, train.err
    assert "prompts of usual: the set's own, 2 templates" in train.out
    own = ["a {} square.", "{}"]
    clip = load(tmp_path / "run")
    record = read_record(clip.describe)
    assert clip.templates == own and record is not None and record.whole and record.captions == 80
    words = clip.tokenizer.decode(clip.tokenizer.encode(" ".join(caption(n) for n in range(80)))).split()
    assert record.words == set(words)
    ended = cli(
        "evaluate",
        "checkpoint=run",
        "data=folder",
        f"data.path={class_folder}",
        "task=quality",
        "task.train=null",
        "out=own",
    )
    digest = json.loads((tmp_path / "own/metrics.json").read_text())["sets"]["quality"]["classes"]["prompts"]
    assert "prompts of classes: the run's, 2 templates" in ended.out and digest["first"] == own[0]
    page = (tmp_path / "own/report.html").read_text()
    assert "the run&#39;s" in page and digest["sha256"][:12] in page
    listed = cli(
        "embed", "checkpoint=run", "data=folder", f"data.path={class_folder}", "data.templates=['{c}!']", "out=e"
    )
    assert "prompts of classes: data.templates, 1 template" in listed.out, listed.err
    assert "class names with words" not in listed.out
    refused = cli("evaluate", "checkpoint=none", "data=folder", f"data.path={class_folder}", "data.templates=no.txt")
    assert refused.code == 2 and refused.err.startswith("diptych: data.templates=no.txt is no file")
    asked = cli(
        "train", "model=vit_tiny", "trainer=cpu", *given, "data.templates=run", "logger=none", "run_dir=other"
    )
    assert asked.code == 2 and "a finished run remembers" in asked.err and not (tmp_path / "other").exists()
    exported = cli("convert", "checkpoint=run", "format=diptych", "out=exported")
    assert exported.code == 0 and load(tmp_path / "exported").templates == own
