"""Accumulation, precision and numbers that are not finite, as a user types them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import same, saved

from diptych.base.files import ROOT
from samples import write_shards

Cli = Callable[..., Any]
TINY = (
    "logger=none", "data=webdataset", "data.workers=0", "data.batch_size=16", "data.streams=4", "trainer.log_every=1",
    "callbacks.zeroshot=null",
)  # fmt: skip
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def curve(run: Path, key: str = "train/loss") -> list[float]:
    return [json.loads(line)[key] for line in (run / "metrics.jsonl").read_text().splitlines()]


def refused(ended: Any, message: str) -> None:
    assert ended.code == 2 and message in ended.err, ended.err
    assert ended.err.startswith("diptych: ") and ended.err.count("\n") == 1, ended.err


@pytest.mark.parametrize(
    "key", [f"{plus}trainer.accumulate_grad_batches=4" for plus in ("", "+", "++")]
)  # fmt: skip
def test_lightnings_accumulation_is_refused_however_it_is_typed(cli: Cli, shards: Path, key: str) -> None:
    gone = shards.parent / "gone.json"  # no data is read before
    refused(cli("train", *TINY, f"data.shards={gone}", key), "type trainer.accumulate=K")


def test_lightnings_scheduler_of_it_is_refused_too(cli: Cli, shards: Path) -> None:
    target = "+callbacks.a._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler"
    refused(cli("train", *TINY, f"data.shards={shards}", target), "type trainer.accumulate=K")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.accumulate=3"], "take trainer.accumulate=2 or 4, or data.batch_size=15."),
        ([*TWO, "trainer.accumulate=16"], "take trainer.accumulate=8, or data.batch_size=32."),
        (["trainer.accumulate=0"], "trainer.accumulate=0 must be at least 1"),
        (["trainer.nonfinite_steps=-1"], "trainer.nonfinite_steps=-1 must be at least 0"),
        (["trainer.precision=fp16-mixed"], "take one of auto, 32-true, bf16-mixed, 16-mixed, bf16-true, 64-true"),
    ],
)
def test_what_can_not_be_is_refused_before_any_data_is_read(
    cli: Cli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    refused(cli("train", *TINY, f"data.shards={tmp_path / 'gone.json'}", *arguments), message)


@pytest.mark.slow
@pytest.mark.alone
def test_parts_may_change_on_resume_unless_a_batch_norm_sees_them(cli: Cli, shards: Path, tmp_path: Path) -> None:
    arguments = (*TINY, f"data.shards={shards}", "trainer.precision=32-true", "trainer.checkpoint_every=1")
    for model in ("vit_tiny", "rn_tiny"):
        run = tmp_path / model
        ended = cli("train", f"model={model}", *arguments, "trainer.max_steps=3", "trainer.keep=9", f"run_dir={run}")
        assert ended.code == 0, ended.err
        (run / "checkpoints/last.ckpt").unlink()
        os.link(run / "checkpoints/step=1.ckpt", run / "checkpoints/last.ckpt")
    before = curve(tmp_path / "vit_tiny")
    assert len(before) == 3
    ended = cli("train", f"resume={tmp_path / 'vit_tiny'}", "trainer.accumulate=4")
    assert ended.code == 0, ended.err
    assert curve(tmp_path / "vit_tiny") == pytest.approx(before, rel=1e-5)
    refused(cli("train", f"resume={tmp_path / 'rn_tiny'}", "trainer.accumulate=4"), "the model has batch norms")
    assert cli("train", f"resume={tmp_path / 'rn_tiny'}", "trainer.accumulate=1").code == 0


@pytest.mark.slow
@pytest.mark.alone
def test_all_ranks_skip_what_is_not_finite_on_one(
    cli: Cli, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 2 is skipped on both ranks and changes nothing; steps 4 and 5 are more than may be skipped in a row."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests/support")]))
    run = tmp_path / "run"
    ended = cli(
        "train", "model=rn_tiny", *TINY, *TWO, f"data.shards={shards}", "trainer.precision=32-true",
        "trainer.max_steps=6", "trainer.checkpoint_every=1", "trainer.keep=9", f"run_dir={run}",
        "trainer.accumulate=2", "trainer.nonfinite_steps=1",
        "+callbacks.poison={_target_: poison.Poison, steps: [2, 4, 5], rank: 1}",
    )  # fmt: skip
    refused(ended, "At step 5 the loss is not finite, like the 1 before it")
    assert same(saved(run, 1)["state_dict"], saved(run, 2)["state_dict"])
    assert not same(saved(run, 2)["state_dict"], saved(run, 3)["state_dict"])
    assert all(value.isfinite().all() for value in saved(run, 4)["state_dict"].values())
    told = json.loads((run / "nonfinite/step=5.json").read_text())
    assert told["samples"].keys() == {"image"} and [len(keys) for keys in told["keys"]] == [8, 8]
    assert curve(run, "train/nonfinite_steps") == [0, 1, 1, 2]
    assert "NaN" not in (run / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("model", "precision", "apart"),
    [("vit_tiny", "32-true", 1e-4), ("vit_tiny", "64-true", 1e-9), ("rn_tiny", "64-true", 1e-9)],
)
def test_sgd_with_clipping_has_one_curve_on_any_ranks(
    cli: Cli, tmp_path: Path, model: str, precision: str, apart: float
) -> None:
    """AdamW hides a gradient that is too large by a factor; here the weights would be elsewhere after a step. With
    clipping, since the norm is measured after the ranks have joined; the last run encodes its batch in parts. In
    float32 rounding grows through batch norms of 16 pictures at this rate, to 6e-4 in six steps."""
    shards = write_shards(tmp_path / "shards", [32, 8, 24, 16])
    layouts: dict[str, tuple[str, ...]] = {"1": (), "2": TWO, "4": (*TWO, "trainer.devices=4")}
    if model == "vit_tiny":
        layouts["2-parts"] = (*TWO, "trainer.accumulate=4")
    runs = {name: tmp_path / name for name in layouts}
    for name, layout in layouts.items():
        ended = cli(
            "train", f"model={model}", *TINY, *layout, f"data.shards={shards}", f"trainer.precision={precision}",
            "trainer.max_steps=6", "trainer.clip=1.0", "optim=sgd", "optim.lr=0.5", f"run_dir={runs[name]}",
        )  # fmt: skip
        assert ended.code == 0, ended.err
    losses, norms = (
        {name: torch.tensor(curve(run, key), dtype=torch.float64) for name, run in runs.items()}
        for key in ("train/loss", "train/gradient_norm")
    )
    print(
        f"\n{model}: "
        + "; ".join(f"W={name} {[round(x, 4) for x in loss.tolist()]}" for name, loss in losses.items())
    )
    assert losses["1"].max() - losses["1"].min() > 0.05 and (norms["1"] > 1).any()  # it moves, and is clipped
    for name in list(layouts)[1:]:
        torch.testing.assert_close(losses[name], losses["1"], rtol=apart, atol=0)
        torch.testing.assert_close(norms[name], norms["1"], rtol=20 * apart, atol=0)
