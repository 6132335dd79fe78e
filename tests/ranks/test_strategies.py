"""Runs by the trainer itself on gloo ranks: sharded as replicated, and on from one another's checkpoints."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from gloo import on_ranks
from interop_files import VIT
from ranks import test_one_result as one_result
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from diptych.base.batch import Batch
from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.interop.formats import convert, read
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.training.checkpoints import read as read_folder
from diptych.training.module import ContrastiveModule
from diptych.training.optim import adamw, warmup_cosine
from diptych.training.strategy import FullySharded, Replicated
from diptych.training.trainer import make_trainer

STEPS, HALF = 20, 10
TINY = replace(VIT, vocab_size=65)

pytestmark = pytest.mark.xdist_group("strategies")  # what they compare is made once


class Losses(L.Callback):
    """This rank's loss at every step."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(pl_module.last_loss.clone())


class Batches(IterableDataset):
    """This rank's rows of the global batches from step `start` on."""

    def __init__(self, rank: int, world: int, start: int) -> None:
        self.made = [batch_of(rank, world, step) for step in range(start, STEPS)]

    def __len__(self) -> int:
        return len(self.made)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.made)


def batch_of(rank: int, world: int, step: int) -> Batch:
    images, tokens = one_result.batch()
    generator = torch.Generator().manual_seed(step)
    pixels = (images[:, :, :16, :16] + torch.randn(images.shape[0], 3, 16, 16, generator=generator)).sigmoid()
    mine = [x.chunk(world)[rank] for x in (pixels.float(), tokens)]
    return Batch(*mine, seeds=torch.zeros(len(mine[0]), dtype=torch.long), step=step)


def model_of(kind: str) -> CLIP:
    if kind == "described":  # in words that a checkpoint carries
        torch.manual_seed(0)
        return build(TINY.config())
    return one_result.small_clip(kind).float()


def fit(
    rank: int,
    world: int,
    folder: Path,
    strategy: Any,
    kind: str = "described",
    last: Path | None = None,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Losses and, on rank 0, the last checkpoint of a run of 20 steps, or of what follows the checkpoint `last`."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    torch.manual_seed(0)
    module = ContrastiveModule(
        model_of(kind).to(memory_format=torch.channels_last),
        ContrastiveLoss(),
        functools.partial(adamw, lr=1e-3),
        warmup_cosine,
        STEPS,
        {"model": TINY.config(), "name": "run"},
    )
    losses = Losses()
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    trainer = make_trainer(
        run_dir=folder,
        devices=world,
        max_steps=STEPS,
        strategy=lambda timeout: strategy,
        accelerator="cpu",
        precision=precision,
        checkpoint_every=HALF,
        clip=0.5,
        callbacks=[losses],
    )
    start = 0 if last is None else HALF
    trainer.fit(module, DataLoader(Batches(rank, world, start), batch_size=None), ckpt_path=last, weights_only=True)
    found = {"losses": torch.stack(losses.found)}
    return found | ({"state": state_of(folder / "checkpoints" / f"step={STEPS}.ckpt")} if rank == 0 else {})


def state_of(path: Path) -> dict[str, Tensor]:
    whole = read_folder(path) if path.is_dir() else torch.load(path, weights_only=True)
    moments = whole["optimizer_states"][0]["state"]
    return whole["state_dict"] | {f"{place}.exp_avg": entry["exp_avg"] for place, entry in moments.items()}


def on_two(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Every run of two ranks, in one group: a process costs more than a run."""
    at, found = Path(folder), {}
    run = functools.partial(fit, rank, world)
    resnet = "resnet-transformer"
    found["resnet replicated"] = run(at / "resnet-0", Replicated(), resnet)
    found["resnet sharded"] = run(at / "resnet-1", FullySharded(activation_checkpointing=True), resnet)
    found["replicated"] = run(at / "replicated", Replicated())
    found["sharded"] = run(at / "sharded", FullySharded())
    found["folders"] = run(at / "folders", FullySharded(sharded_checkpoints=True))
    file, shards, plain = (
        at / name / "checkpoints" / f"step={HALF}.ckpt" for name in ("sharded", "folders", "replicated")
    )
    found["replicated after file"] = run(at / "a", Replicated(), last=file)
    found["replicated after shards"] = run(at / "b", Replicated(), last=shards)
    found["sharded after plain"] = run(at / "c", FullySharded(), last=plain)
    found["sharded after shards"] = run(at / "d", FullySharded(), last=shards)
    return found


def on_four(rank: int, world: int, folder: str) -> dict[str, Any]:
    at = Path(folder)
    run = functools.partial(fit, rank, world)
    found = {
        f"{name} after {before}": run(
            at / f"four-{name}-{before}", strategy, last=at / before / "checkpoints" / f"step={HALF}.ckpt"
        )
        for before in ("sharded", "folders")
        for name, strategy in (("four", FullySharded()), ("two of two", FullySharded(replicas=2)))
    }
    for name, strategy in (("mixed replicated", Replicated()), ("mixed sharded", FullySharded())):
        found[name] = run(at / name, strategy, precision="bf16-mixed")
    return found


def mean(ranks: list[dict[str, Any]], name: str) -> Tensor:
    return torch.stack([found[name]["losses"] for found in ranks]).mean(0)


def close(ranks: list[dict[str, Any]], name: str, like: dict[str, Any], tolerance: float) -> None:
    losses = mean(ranks, name)
    torch.testing.assert_close(losses, like["losses"][-len(losses) :], rtol=tolerance, atol=0)
    state = ranks[0][name]["state"]
    assert state.keys() == like["state"].keys()
    for key, value in like["state"].items():
        torch.testing.assert_close(
            state[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{name} {k}: {m}"
        )


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, on_ranks(2, on_two, str(folder))


def test_twenty_steps_of_shards_are_those_of_copies(two: Any) -> None:
    """A ViT's, and a ResNet's whose blocks are computed again."""
    _, ranks = two
    for kind in ("", "resnet "):
        name = f"{kind}replicated"
        like = {"losses": mean(ranks, name), "state": ranks[0][name]["state"]}
        close(ranks, f"{kind}sharded", like, 1e-5)


def test_a_run_goes_on_from_any_checkpoint_under_any_strategy(two: Any, tmp_path: Path) -> None:
    folder, ranks = two
    like = {"losses": mean(ranks, "replicated"), "state": ranks[0]["replicated"]["state"]}
    for name in ("sharded", "folders"):
        close(ranks, name, like, 1e-5)
    for name in ("replicated after file", "replicated after shards", "sharded after plain", "sharded after shards"):
        close(ranks, name, like, 1e-5)
    for before in ("sharded", "folders"):
        last = folder / before / "checkpoints" / f"step={HALF}.ckpt"
        close([{"alone": fit(0, 1, tmp_path / before, None, last=last)}], "alone", like, 1e-5)


@pytest.mark.slow
def test_four_ranks_go_on_from_two(two: Any) -> None:
    folder, ranks = two
    like = {"losses": mean(ranks, "replicated"), "state": ranks[0]["replicated"]["state"]}
    four = on_ranks(4, on_four, str(folder))
    for name in four[0]:
        if "after" in name:
            close(four, name, like, 1e-5)
    # bfloat16 has a digit at 2^-8: what a convolution's layout changes in it grows over twenty steps.
    torch.testing.assert_close(mean(four, "mixed sharded"), mean(four, "mixed replicated"), rtol=2e-2, atol=0)


def test_folders_are_named_when_whole_and_convert(two: Any, tmp_path: Path) -> None:
    folder, _ = two
    run = tmp_path / "run"
    shutil.copytree(folder / "folders", run, symlinks=True)
    checkpoints = run / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"last.ckpt", f"step={HALF}.ckpt", f"step={STEPS}.ckpt"}
    assert (checkpoints / "last.ckpt").readlink() == Path(f"step={STEPS}.ckpt")
    weights, like = read(run), read(folder / "sharded")
    assert weights.step == like.step == STEPS
    again = read(convert(run, "diptych", tmp_path / "whole"))
    for name, value in like.state.items():
        torch.testing.assert_close(weights.state[name], value, rtol=1e-6, atol=1e-7)
        assert torch.equal(again.state[name], weights.state[name]), name
    (checkpoints / "last.ckpt" / "meta.pt").unlink()
    with pytest.raises(UserError, match=r"meta\.pt is missing in it"):
        read_folder(checkpoints / "last.ckpt")
