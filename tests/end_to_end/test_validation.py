"""What a run validates on: paths from the command line, captions, pairs held out; what chooses best.ckpt, and what
doesn't; and tasks on packed shards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset as wds

from diptych.data.sets.evalset import EvalSet
from diptych.training.callbacks.zeroshot import choice
from diptych.training.checkpoints import write
from samples import benchmark, caption, picture, write_shards

Cli = Callable[..., Any]
TINY = (
    "model=vit_tiny", "model.image.layers=1", "model.text.layers=1", "logger=none", "trainer=cpu",
    "trainer.precision=32-true", "data=webdataset", "data.workers=0", "data.batch_size=16", "trainer.max_steps=2",
)  # fmt: skip


def captioned(root: Path) -> Path:
    """Six pictures; each caption is two pictures'."""
    (root / "test").mkdir(parents=True)
    (root / "dataset_type.txt").write_text("retrieval")
    with wds.TarWriter(str(root / "test/0.tar"), encoder=False) as writer:
        for n in range(6):
            writer.write({"__key__": f"{n:03d}", "png": picture(n), "txt": caption(n % 3).encode()})
    return root


@pytest.fixture
def sets(tmp_path: Path, class_folder: Path) -> str:
    """A labelled folder, a folder of sets and a retrieval set; two are called alike."""
    benchmark(tmp_path / "many" / "colours")
    benchmark(tmp_path / "many" / "classes")
    (tmp_path / "many" / "sets.json").write_text(json.dumps({"colours": {"role": "validation"}, "classes": {}}))
    return f"data.evaluate=[{class_folder},{tmp_path / 'many'},{captioned(tmp_path / 'captions')}]"


def test_paths_are_validated_on_and_tasks_read_packed_shards(cli: Cli, tmp_path: Path, sets: str) -> None:
    index = write_shards(tmp_path / "own", [60, 40])
    own = f"data.shards={index}"
    ended = cli("train", *TINY, own, sets, f"run_dir={tmp_path}/run")
    assert ended.code == 0, ended.err
    assert "8 of 100 pairs are held out for validation, chosen by a hash of their keys" in ended.out
    assert "best.ckpt is the step of the highest mean top-1 of colours." in ended.out
    page = (tmp_path / "run/report.html").read_text()
    assert "8 pairs are few: chance is 12.5 %" in page and "For zero-shot numbers" not in page
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    numbers = lines[-1]
    names = {key.split("/")[2] for key in numbers if key.startswith("val/zeroshot/")}
    assert len(names) == 3 and {"colours", "many-classes"} <= names, names
    assert {
        "val/retrieval/captions/text_to_image/R@1",
        "val/pairs/loss",
        "val/pairs/recall/image_to_text/R@1",
    } <= set(numbers)
    told = json.loads((tmp_path / "run/metrics.json").read_text())
    assert told["pairs"]["held_out"] == told["pairs"]["n"] == 8 and told["pairs"]["step"] == 2
    assert told["retrieval"]["captions"]["shared_captions"] == 6

    checkpoint = f"checkpoint={tmp_path}/run"
    ended = cli("evaluate", checkpoint, "task=retrieval", "data=webdataset", own, f"out={tmp_path}/recall")
    assert ended.code == 0 and "pairs" in ended.out, ended.err
    recall = json.loads((tmp_path / "recall/metrics.json").read_text())["retrieval"]
    assert list(recall) == ["pairs"] and recall["pairs"]["n"] == 100  # none of the sets that the run's config names
    ended = cli("evaluate", checkpoint, "data=webdataset", own, f"out={tmp_path}/none")
    assert ended.code == 2 and "task=retrieval, or give labelled pictures: a folder a class" in ended.err
    ended = cli("embed", checkpoint, "data=webdataset", own, f"out={tmp_path}/embedded")
    assert ended.code == 0, ended.err
    from diptych.tasks.embeddings import read_table

    assert read_table(tmp_path / "embedded")["caption"] == [caption(n) for n in range(100)]
    ended = cli("evaluate", checkpoint, "task=retrieval", "data=webdataset")
    assert ended.code == 2 and "data.evaluate and data.shards are both null" in ended.err

    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "run", broken)
    state = torch.load(broken / "checkpoints/last.ckpt", weights_only=True)
    state["state_dict"]["model.logit_scale"].fill_(float("inf"))
    torch.save(state, broken / "checkpoints/last.ckpt")
    ended = cli("evaluate", f"checkpoint={broken / 'checkpoints/last.ckpt'}", sets, f"out={tmp_path}/e")
    assert ended.code == 2 and "logit scale is inf" in ended.err, ended.err
    assert "data: emoji" not in ended.out


def test_embed_names_what_it_skips_and_the_drawings_it_takes_by_default(
    cli: Cli, tmp_path: Path, class_folder: Path
) -> None:
    index = write_shards(tmp_path / "own", [40])
    ended = cli("train", *TINY, f"data.shards={index}", f"run_dir={tmp_path}/run")
    assert ended.code == 0, ended.err
    damaged = sorted(class_folder.rglob("*.png"))[0]
    damaged.write_bytes(damaged.read_bytes()[:60])
    checkpoint = f"checkpoint={tmp_path}/run"
    ended = cli("embed", checkpoint, "data=folder", f"data.path={class_folder}", f"out={tmp_path}/own-e")
    assert ended.code == 0 and "data: emoji" not in ended.out, ended.err
    assert "skipped in classes: 1 × " in ended.out and damaged.stem in ended.out, ended.out
    ended = cli("embed", checkpoint, f"out={tmp_path}/emoji-e")
    assert ended.code == 0, ended.err
    assert "data: emoji, the embedded drawings, as no data= was given" in ended.out


def test_a_set_of_the_role_test_chooses_nothing(cli: Cli, tmp_path: Path, class_folder: Path) -> None:
    index = write_shards(tmp_path / "own", [40])
    given = (*TINY, f"data.shards={index}", "data.validation=0")
    ended = cli("train", *given, f"data.evaluate={class_folder}", f"run_dir={tmp_path}/run")
    assert ended.code == 0 and "best.ckpt is not chosen: no set has the role validation" in ended.out, ended.err
    assert "val/zeroshot/classes/top1" in (tmp_path / "run/metrics.jsonl").read_text()
    assert not (tmp_path / "run/checkpoints/best.ckpt").exists()
    assert "held out" not in (tmp_path / "run/report.html").read_text()


def test_a_resume_on_other_sets_says_so_and_chooses_the_best_anew(
    cli: Cli, tmp_path: Path, class_folder: Path
) -> None:
    index, many, run = write_shards(tmp_path / "own", [40]), tmp_path / "many", tmp_path / "run"
    benchmark(many / "colours")
    (many / "sets.json").write_text(json.dumps({"colours": {"role": "validation"}}))
    kept = benchmark(tmp_path / "kept")
    given = (*TINY, f"data.shards={index}", "callbacks.zeroshot.every=1", "trainer.checkpoint_every=1")
    ended = cli("train", *given, f"data.evaluate=[{many},{kept},{class_folder}]", f"run_dir={run}")
    assert ended.code == 0 and "these scores" not in ended.err, ended.err
    # As after a crash right after step 1, whose score no other can reach.
    first, second = run / "checkpoints/step=1.ckpt", run / "checkpoints/step=2.ckpt"
    for file in (second, run / "checkpoints/last.ckpt", run / "checkpoints/best.ckpt"):
        file.unlink()
    content = torch.load(first, weights_only=True)
    content["callbacks"]["Checkpoints"]["best"] = 2.0
    write(content, first)
    os.link(first, run / "checkpoints/best.ckpt")

    shutil.rmtree(many / "colours")
    benchmark(many / "colours", cls=b"3")
    ended = cli("train", f"resume={run}", f"data.evaluate=[{many},{kept}]")
    said = (
        "validation: from step 1 on, colours has other labels; classes is not measured any more: these scores can't"
        " be compared with those before; best.ckpt is chosen again from here on, and the earlier one stays as"
        " best-until-step=1.ckpt."
    )
    assert ended.code == 0 and ended.err.count(f"diptych: {said}") == 1, ended.err
    assert f"data: reads what the run's config names: data.shards={index}\n" in ended.out
    assert (run / "checkpoints/best.ckpt").samefile(second)
    assert (run / "checkpoints/best-until-step=1.ckpt").samefile(first)
    state = torch.load(second, weights_only=True)["callbacks"]
    assert state["Checkpoints"]["best"] <= 1 and list(state["ZeroShot"]["sets"]) == ["colours", "kept"]
    assert json.loads((run / "metrics.json").read_text())["training"]["validation_changed"] == [said]
    assert "classes is not measured any more" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data.evaluate=nowhere", "data.evaluate=nowhere does not exist: give a folder with a sub-folder"),
        ("data.evaluate=[]", "is neither a path nor a list of paths"),
        ("data.evaluate=3", "is neither a path nor a list of paths"),
        ("data.evaluate=[{role: test}]", "is neither a path nor a list of paths"),
        ("data.validation=-1", "data.validation=-1 must be a whole number of pairs"),
        ("data.validation=most", "data.validation=most must be a whole number of pairs"),
    ],
)
def test_what_can_be_no_set_is_refused_at_once(cli: Cli, tmp_path: Path, given: str, message: str) -> None:
    ended = cli("train", *TINY, "data.shards=x.tar", given, f"run_dir={tmp_path}/run")
    assert ended.code == 2 and message in ended.err and ended.err.count("\n") == 1, ended.err
    assert not (tmp_path / "run").exists()


def test_what_chooses() -> None:
    """The first there is of: classes, captions, pairs; by the role validation alone."""

    def made(name: str, role: str, classes: bool) -> EvalSet:
        return EvalSet(name, ["a"] if classes else [], [], [], role)

    classes, captions = made("c", "validation", True), made("r", "validation", False)
    numbers = {
        "val/zeroshot/c/top1": 0.5, "val/zeroshot/t/top1": 0.9, "val/pairs/loss": 2.0,
        "val/retrieval/r/text_to_image/R@1": 0.2, "val/retrieval/r/image_to_text/R@1": 0.4,
    }  # fmt: skip
    for sets, pairs, sentences, expected in (
        ([classes, captions, made("t", "test", True)], True, True, 0.5),
        ([captions, made("t", "test", True)], True, True, 0.3),
        ([captions], True, False, -2.0),
        ([made("t", "test", True)], True, True, -2.0),
    ):
        chosen = choice(sets, pairs, sentences)
        assert chosen is not None and chosen.score(numbers) == pytest.approx(expected)
    assert choice([made("t", "test", True), made("t", "test", False)], False, True) is None
