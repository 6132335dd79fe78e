"""A run's folder keeps its truth: what is typed into it, moved below it, or raced for, as its user sees it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fits import same
from found import found
from omegaconf import OmegaConf

from diptych import run as commands
from diptych.paths import ROOT
from diptych.training.writing import write
from samples import write_shards

Cli = Callable[..., "object"]
SMALL = (
    "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=cpu", "trainer.precision=32-true",
    "logger=none", "data=webdataset", "data.workers=0", "data.batch_size=16", "trainer.log_every=1",
    "trainer.checkpoint_every=2", "trainer.keep=9", "schedule=constant", "schedule.warmup=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, in the folder `run` beside their shards."""
    folder = tmp_path_factory.mktemp("trained")
    index = write_shards(folder / "shards", [32, 8, 24, 16])
    command = ["train.py", *SMALL, f"data.shards={index}", "trainer.max_steps=4", f"run_dir={folder / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        commands.main("train", commands.train)
    return folder


@pytest.fixture
def shards(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained / "shards", tmp_path / "shards") / "index.json"


@pytest.fixture
def run(trained: Path, shards: Path, tmp_path: Path) -> Path:
    """The run, copied, whose shards are the test's own now."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    config = (run / "config.yaml").read_text()
    assert str(trained / "shards") in config
    (run / "config.yaml").write_text(config.replace(str(trained / "shards"), str(shards.parent)))
    return run


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def kept(run: Path) -> dict[str, str]:
    """The digest of every file."""
    files = [file for file in run.rglob("*") if file.is_file()]
    assert files
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def refused(ended: object, *parts: str) -> None:
    assert ended.code == 2 and ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("diptych: ") and all(part in ended.err for part in parts), ended.err


def test_a_new_run_does_not_write_over_an_old_one(cli: Cli, run: Path, shards: Path) -> None:
    before = kept(run)
    ended = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=9", "seed=5", f"run_dir={run}")
    refused(ended, f"run_dir={run} holds a run already (config.yaml): to go on with it, type resume={run}")
    assert kept(run) == before


def test_a_wrong_start_makes_no_folder_and_the_next_try_takes_it(cli: Cli, shards: Path, tmp_path: Path) -> None:
    given = (*SMALL, "trainer.max_steps=1", f"run_dir={tmp_path / 'a/run'}")
    refused(cli("train", *given, f"data.shards={shards}", "data.max_bad=2"), "data.max_bad")
    assert not (tmp_path / "a").exists()
    refused(cli("train", *given, "data.shards=nowhere.json"), "nowhere.json")
    assert cli("train", *given, f"data.shards={shards}").code == 0
    refused(
        cli("train", *SMALL, f"data.shards={shards}", "name=../../x"), "name='../../x' names no folder below runs/"
    )
    refused(cli("train", *SMALL, f"data.shards={shards}", f"run_dir={shards}/x"), "is there and is no folder")
    refused(cli("train", "-m", *SMALL, f"data.shards={shards}", f"run_dir={shards}/x"), "can't be written")
    assert not list(tmp_path.glob("**/x")) and not (tmp_path.parent / "x").exists()


@pytest.mark.slow
def test_two_runs_and_two_evaluations_of_one_second_have_a_folder_each(
    cli: Cli, run: Path, shards: Path, tmp_path: Path, class_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=1", "name=twin")
    (first,) = (tmp_path / "runs/twin").iterdir()
    number = int(first.name.removeprefix("run"))
    (first.parent / f"run{number + 1}").mkdir()  # as another process's, which has just begun
    ended = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=1", "name=twin")
    assert again.code == ended.code == 0 and f"run: {first.parent}/run{number + 1}\n" in ended.out
    shutil.copytree(first, first.parent / f"run{number + 2}")
    ended = cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=1", "name=twin")
    assert f"run: {first.parent}/run{number + 2}-2\n" in ended.out
    (tmp_path / f"runs/evaluate/run{number + 3}").mkdir(parents=True)
    (tmp_path / f"runs/evaluate/run{number + 3}/metrics.json").write_text("{}")
    ended = cli("evaluate", f"checkpoint={run}", "data=folder", f"data.path={class_folder}")
    assert f"report: {tmp_path}/runs/evaluate/run{number + 3}-2/report.html" in ended.out, ended.err


@pytest.mark.slow
def test_an_evaluation_into_a_runs_folder_leaves_the_run_as_it_is(
    cli: Cli, run: Path, class_folder: Path, tmp_path: Path
) -> None:
    before, trained = kept(run), json.loads((run / "metrics.json").read_text())["training"]
    given = ("data=folder", f"data.path={class_folder}", f"out={run}")
    ended = cli("evaluate", f"checkpoint={run}", *given)
    assert ended.code == 0, ended.err
    after = kept(run)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"metrics.json", "report.html"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["training"] == trained and metrics["zeroshot"]["n"] == 12
    assert OmegaConf.load(run / "evaluation/zeroshot/config.yaml").checkpoint == str(run)
    assert (run / "evaluation/zeroshot/environment.txt").is_file()
    ended = cli("train", f"resume={run}")
    assert ended.code == 0 and "This run is complete: 4 of 4 steps." in ended.out, ended.err
    assert json.loads((run / "metrics.json").read_text()) == metrics
    (run / "metrics.json").write_text(r'{"zeroshot": {"sets": {"mine\u001b": {"n": 1}}}}')
    ended = cli("evaluate", f"checkpoint={run}", *given)
    assert rf"diptych: zeroshot of mine\x1b in {run}/metrics.json is replaced." in ended.err
    exported = tmp_path / "exported"
    assert cli("convert", f"checkpoint={run}", "format=diptych", f"out={exported}").code == 0
    whole = kept(exported)
    refused(cli("evaluate", f"checkpoint={run}", *given[:2], f"out={exported}"), f"out={exported} holds a model")
    assert kept(exported) == whole and "run:" not in (exported / "config.yaml").read_text()


def test_a_run_goes_on_only_with_its_own_checkpoints(cli: Cli, run: Path, shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    given = (f"data.shards={shards}", "trainer.max_steps=6", f"run_dir={other}", "seed=5", "name=other")
    assert cli("train", *SMALL, *given).code == 0
    shutil.copy(other / "checkpoints/step=6.ckpt", run / "checkpoints")
    before = kept(run)
    ended = cli("train", f"resume={run}")
    refused(ended, "step=6.ckpt there is not a checkpoint of the run that config.yaml describes: name, seed")
    del before["checkpoints/last.ckpt"]
    assert before.items() <= kept(run).items()
    (run / "checkpoints/step=6.ckpt").unlink()
    config = OmegaConf.load(run / "config.yaml")
    config.optim.lr = 0.5
    OmegaConf.save(config, run / "config.yaml")
    refused(cli("train", f"resume={run}"), "describes: optim.lr is another.")


@pytest.mark.slow
def test_a_resume_with_other_data_is_refused_and_with_moved_data_is_exact(
    cli: Cli, run: Path, shards: Path, tmp_path: Path
) -> None:
    longer = ("trainer.max_steps=6",)
    assert cli("train", *SMALL, f"data.shards={shards}", *longer, f"run_dir={tmp_path / 'whole'}").code == 0
    moved = shutil.copytree(shards.parent, tmp_path / "moved")
    index = json.loads(shards.read_text())
    changes = {
        "4 shards became 3, train-000003.tar is gone": index["shards"][:3],
        "shard 1 of 4, train-000000.tar, is now train-000003.tar": index["shards"][::-1],
    }
    before = kept(run)
    for said, entries in changes.items():
        shards.write_text(json.dumps({**index, "shards": entries}))
        refused(cli("train", f"resume={run}", *longer), "its data is not what it was: " + said)
    shards.unlink()
    assert kept(run) == before
    ended = cli("train", f"resume={run}", *longer, f"data.shards={moved / 'index.json'}")
    assert ended.code == 0, ended.err
    assert [x["train/loss"] for x in lines(run)] == [x["train/loss"] for x in lines(tmp_path / "whole")]
    assert len(lines(run)) == 6
    assert OmegaConf.load(run / "config.yaml").data.shards == str(moved / "index.json")


@pytest.mark.slow
def test_a_longer_run_is_the_run_that_was_as_long_from_the_start(cli: Cli, run: Path, shards: Path) -> None:
    """And one whose learning rates or pictures would have been others is refused, with the way to go."""
    whole = run.with_name("whole")
    assert cli("train", *SMALL, f"data.shards={shards}", "trainer.max_steps=8", f"run_dir={whole}").code == 0
    refused(cli("train", f"resume={run}", "trainer.max_steps=3"), "trainer.max_steps=3 is less than the 4 steps")
    refused(cli("train", f"resume={run}", "trainer.max_steps=0"), "trainer.max_steps=0 must be a whole number")
    ended = cli("train", f"resume={run}", "samples=128")
    assert ended.code == 0 and "length: 8 steps instead of 4" in ended.out, ended.err
    left, right = (torch.load(each / "checkpoints/last.ckpt", weights_only=True) for each in (run, whole))
    assert left["global_step"] == right["global_step"] == 8
    assert same(left["state_dict"], right["state_dict"]) and "model.logit_scale" in left["state_dict"]
    assert left["lr_schedulers"] == right["lr_schedulers"]
    assert [x["train/loss"] for x in lines(run)] == [x["train/loss"] for x in lines(whole)] and len(lines(run)) == 8
    assert json.loads((run / "metrics.json").read_text())["training"]["steps"] == 8

    given = (*SMALL[:-2], f"data.shards={shards}", "trainer.max_steps=4", "schedule=cosine")
    cosine = run.with_name("cosine")
    assert cli("train", *given, f"run_dir={cosine}").code == 0
    before = kept(cosine)
    ended = cli("train", f"resume={cosine}", "trainer.max_steps=8")
    refused(
        ended,
        "its learning rates follow from its length",
        f"model.pretrained={cosine} trainer.max_steps=4",
        "schedule=constant",
    )
    assert kept(cosine) == before


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_sentence(cli: Cli, run: Path, tmp_path: Path) -> None:
    for file in found(run / "checkpoints", "*.ckpt"):
        content = torch.load(file, weights_only=True)
        del content["diptych"]["run"]
        write(content, file)
    shutil.copytree(tmp_path / "shards", tmp_path / "moved")
    moved = f"data.shards={tmp_path}/moved/index.json"
    refused(cli("train", f"resume={run}", moved), "data.shards can't change", "of an earlier version")
    ended = cli("train", f"resume={run}", "trainer.max_steps=6")
    assert ended.code == 0 and "of an earlier version, which did not note its run and data" in ended.out, ended.err


# What follows starts processes: kills, signals, and two at once.

HOOK = """
import os, sys
sys.path.insert(0, {src!r})
from pathlib import Path
from diptych import fitting, run
sys.argv[1:] = {arguments!r}
made = run.report
def report(*given):
    print("reports", flush=True)
    sys.stdin.readline()
    made(*given)
run.report = report
run.main("train", run.train)
"""


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`python src/train.py …`, which waits for a line before it makes the report."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        code = HOOK.format(src=str(ROOT / "src"), arguments=[*arguments])
        pipe = subprocess.PIPE
        given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=given
            )
        )
        return started[-1]

    yield start
    for each in started:
        if each.poll() is None:
            each.kill()
        each.communicate()


def until(started: subprocess.Popen[str], line: str) -> None:
    assert started.stdout is not None
    for each in started.stdout:
        if each.startswith(line):
            return
    raise AssertionError(started.communicate()[1])


@pytest.mark.slow
@pytest.mark.alone
def test_two_resumes_at_once_and_ctrl_c_in_the_last_evaluation(
    cli: Cli, run: Path, typed: Callable[..., subprocess.Popen[str]]
) -> None:
    first = typed(f"resume={run}")
    until(first, "reports")
    refused(cli("train", f"resume={run}"), f"{run} is in use: process {first.pid} on ", "trains there")
    (run / "report.html").unlink()
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    said = first.stderr.read()
    assert "Traceback" not in said
    assert "SIGINT while the report was made: the training is complete; to make its report, type python src" in said
    ended = cli("train", f"resume={run}")
    assert ended.code == 0 and (run / "report.html").is_file(), ended.err


@pytest.mark.slow
@pytest.mark.alone
def test_a_kill_frees_the_folder_and_two_new_runs_do_not_share_one(
    cli: Cli, run: Path, shards: Path, typed: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    new = (*SMALL, f"data.shards={shards}", "trainer.max_steps=2", f"run_dir={tmp_path / 'race'}")
    racing = [typed(*new), typed(*new)]
    deadline = time.monotonic() + 120
    while all(each.poll() is None for each in racing):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (lost,) = [each for each in racing if each.poll() is not None]
    (won,) = [each for each in racing if each is not lost]
    said = lost.communicate()[1]
    assert lost.returncode == 2 and said.count("\n") == 1
    assert f"is in use: process {won.pid}" in said or "holds a run already" in said
    until(won, "reports")
    won.kill()
    won.wait()
    ended = cli("train", f"resume={tmp_path / 'race'}")
    assert ended.code == 0 and "This run is complete: 2 of 2 steps." in ended.out, ended.err
    assert [line["step"] for line in lines(tmp_path / "race")] == [1, 2]


@pytest.mark.slow
@pytest.mark.alone
def test_results_on_a_full_and_on_a_read_only_disk(run: Path, class_folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for options, said in (
        ("size=16k", "metrics.json can't be written (No space left on device)"),
        ("ro", f"out={disk}/out can't be written: {disk} gives no right to"),
    ):
        mount = f"mount -t tmpfs -o {options} tmpfs {disk}"
        if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        command = [sys.executable, str(ROOT / "src/evaluate.py"), f"checkpoint={run}", "data=folder"]
        command += [f"data.path={class_folder}", f"out={disk}/out"]
        fill = f"mkdir {disk}/out && head -c 14000 /dev/zero >{disk}/filled; " if "size" in options else ""
        ended = subprocess.run(
            ["unshare", "-rm", "sh", "-c", f'{mount} && {fill}"$@"', "sh", *command], capture_output=True, text=True
        )
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
        assert "can't be written" in ended.stderr and str(disk) in ended.stderr
        if "ro" in options:
            assert said in ended.stderr


def edited(run: Path, change: Callable[[dict], object]) -> None:
    """The run's config.yaml, changed by hand; its last step is gone, so that there is one to take."""
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(config, dict)
    change(config)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(config))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda config: config["loss"].pop("smoothing"), "loss.smoothing"),
        (lambda config: config["model"].update(mean=[0, 0, 0]), "model.mean"),
        (lambda config: config["optim"].pop("weight_decay"), "optim.weight_decay"),
        (
            lambda config: config["callbacks"].update(
                ema={"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging", "decay": 0.5}
            ),
            "callbacks.ema",
        ),
    ],
    ids=["loss", "pixels", "optim", "average"],
)
def test_keys_taken_out_or_put_in_make_another_run(
    cli: Cli, run: Path, change: Callable[[dict], object], key: str
) -> None:
    edited(run, change)
    before = state(run)
    ended = cli("train", f"resume={run}", "trainer.max_steps=6")
    assert ended.code == 2 and key in ended.err, ended.err
    assert state(run) == before


def state(run: Path) -> dict[str, str]:
    """Every file with its digest."""
    files = [file for file in run.rglob("*") if file.is_file()]
    assert files
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("changed", [["seed=5"], ["data.batch_size=8", "optim.lr=0.1"], ["trainer.max_steps=9"]])
def test_a_job_started_again_goes_on_with_its_own_run_alone(
    cli: Cli, run: Path, shards: Path, changed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    before = state(run)
    command = [*SMALL, f"data.shards={shards}", "trainer.max_steps=4", f"run_dir={run}"]
    ended = cli("train", *command, *changed)
    key = changed[0].partition("=")[0]
    assert ended.code == 2 and f"holds another run than this command describes: {key}" in ended.err, ended.err
    assert state(run) == before
    monkeypatch.setenv("SLURM_RESTART_COUNT", "one")
    assert "SLURM_RESTART_COUNT=one in the environment is no whole number" in cli("train", *command).err


def test_another_vocabulary_in_the_folder_is_refused(cli: Cli, shards: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "worded", ROOT / "data/emoji-vocabulary.txt.gz"
    given = [*SMALL, f"data.shards={shards}", f"model.text.vocabulary={file}", "data.validation=0"]
    assert cli("train", *given, "trainer.max_steps=2", f"run_dir={run}").code == 0
    copy = (run / "vocabulary.txt").read_text().splitlines()
    copy[-1], copy[-2] = copy[-2], copy[-1]
    (run / "vocabulary.txt").write_text("\n".join(copy) + "\n")
    ended = cli("train", f"resume={run}", "trainer.max_steps=4")
    assert ended.code == 2 and "vocabulary.txt there is not the vocabulary" in ended.err, ended.err
