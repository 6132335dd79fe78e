"""`trainer=fsdp` as typed: what it trains, what goes on from it, and what it refuses before any data is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Cli = Callable[..., "object"]
TINY = ("model=rn_tiny", "logger=none", "trainer.precision=32-true", "data.batch_size=16", "trainer.log_every=1")
FSDP = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("trainer.precision=16-mixed",), "trainer.precision=16-mixed needs a gradient scaler"),
        (("optim=muon",), "optim=muon orthogonalises whole matrices"),
        (("callbacks=ema",), "callbacks=ema averages a whole copy of the model"),
        (("trainer.strategy.replicas=3",), "trainer.strategy.replicas=3 does not divide the 2 ranks"),
        (("trainer.strategy.replicas=0",), "trainer.strategy.replicas=0 does not divide"),
        (("trainer.strategy.replica=2",), "did you mean trainer.strategy.replicas?"),
    ],
)
def test_what_can_not_be_sharded_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, cli: Cli, tmp_path: Path
) -> None:
    missing = ("data=webdataset", f"data.shards={tmp_path}/no.tar")  # no data is looked for
    ended = cli("train", *TINY, *missing, *FSDP, *arguments, f"run_dir={tmp_path / 'run'}")
    assert ended.code == 2 and sentence in ended.err and "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.alone
def test_shards_train_as_one_process_and_copies_go_on(cli: Cli, shards: Path, tmp_path: Path) -> None:
    """With folders, a validation of other length on each rank, and a resume with another trainer."""
    one, two = tmp_path / "one", tmp_path / "two"
    steps = ("trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.keep=9", "data.streams=4")
    data = ("data=webdataset", f"data.shards={shards}", "data.workers=0")
    assert cli("train", *TINY, *data, *steps, f"run_dir={one}").code == 0
    folders = ("trainer.strategy.sharded_checkpoints=true",)
    ended = cli("train", *TINY, *data, *steps, *FSDP, *folders, f"run_dir={two}")
    assert ended.code == 0, ended.err
    assert len(lines(one)) == 4
    for alone, ranks in zip(lines(one), lines(two), strict=True):
        assert ranks["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-5)
    last = two / "checkpoints" / "last.ckpt"
    shutil.rmtree(two / "checkpoints" / "step=4.ckpt")
    ended = cli("train", f"resume={two}", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert ended.code == 0, ended.err
    assert [line["train/loss"] for line in lines(two)] == pytest.approx(
        [line["train/loss"] for line in lines(one)], rel=1e-5
    )
    assert last.is_file() and torch.load(last, weights_only=True)["global_step"] == 4


@pytest.mark.slow
@pytest.mark.alone
def test_compiled_towers_train_on_ranks_as_plain_ones_do_in_one_process(
    cli: Cli, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cache of its own: a compiler that was killed leaves half a library in the shared one.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    given = (
        "model=vit_tiny", "model.image.layers=1", "model.text.layers=1", *TINY[1:], "trainer.max_steps=4",
        "data=webdataset", f"data.shards={shards}", "data.workers=0", "data.streams=4",
    )  # fmt: skip
    compiled = ("trainer.accelerator=cpu", "trainer.devices=2", "model.compile=true")
    for name, more in {"one": (), "ddp": ("trainer=ddp", *compiled), "fsdp": ("trainer=fsdp", *compiled)}.items():
        ended = cli("train", *given, *more, f"run_dir={tmp_path / name}")
        assert ended.code == 0, ended.err
        assert any((tmp_path / "cache").rglob("*.so")) == bool(more)  # kernels were written
        assert len(lines(tmp_path / name)) == 4
        for alone, ranks in zip(lines(tmp_path / "one"), lines(tmp_path / name), strict=True):
            assert ranks["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-5)
            assert ranks["train/gradient_norm"] == pytest.approx(alone["train/gradient_norm"], rel=1e-4)
