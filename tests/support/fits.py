"""A short training in this process, with a run's trainer and a model of a few thousand parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from diptych.base.batch import Batch
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, ModifiedResNet
from diptych.towers.text import TextTransformer
from diptych.towers.vit import VisionTransformer
from diptych.training.module import ContrastiveModule
from diptych.training.optim import adamw, warmup_cosine
from diptych.training.precision import tower_dtype
from diptych.training.trainer import make_trainer


def small_clip(kind: str = "vit") -> CLIP:
    torch.manual_seed(0)
    if kind == "vit":
        image: nn.Module = VisionTransformer(16, 8, width=16, layers=2, embed_dim=12, heads=2)
    else:
        image = ModifiedResNet(16, [1, 1], 8, 12, block=BasicBlock, stem_pool=False)
    return CLIP(image, TextTransformer(12, width=16, layers=2, heads=2, context_length=8, vocab_size=20))


def batch(step: int, rows: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8)
    words = torch.randint(1, 17, (rows, 2), generator=generator)
    tokens = torch.cat([torch.full((rows, 1), 18), words, torch.full((rows, 1), 19)], dim=1)
    return Batch(images, tokens, torch.zeros(rows, dtype=torch.long), [f"{step}/{row}" for row in range(rows)], step)


def spoilt(spoil: tuple[int, ...]) -> Callable[[int], Batch]:
    """Batches; in the steps `spoil`, counted from 1, the pixels are not finite."""

    def make(step: int) -> Batch:
        good = batch(step)
        bad = step + 1 in spoil
        return dataclasses.replace(good, images=good.images.float() / 255 + torch.nan) if bad else good

    return make


class Loader:
    """Steps as from `data.stream.steps.Steps`: `len` is that of the whole run, and the first is `start`."""

    def __init__(self, steps: int, start: int, make: Callable[[int], Batch]) -> None:
        self.steps, self.start, self.make = steps, start, make

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return (self.make(step) for step in range(self.start, self.steps))


def fit(
    folder: Path,
    model: CLIP,
    *,
    steps: int = 4,
    make: Callable[[int], Batch] = batch,
    resume_from: int = 0,
    optimizer: Callable[..., torch.optim.Optimizer] = adamw,
    loss: nn.Module | None = None,
    accumulate: int = 1,
    precision: str = "32-true",
    **trainer_keys: Any,
) -> L.Trainer:
    """Train `model` for `steps`, or resume from `folder`'s checkpoint of step `resume_from`. Saves every step."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    trainer = make_trainer(
        run_dir=folder, devices=1, accelerator="cpu", max_steps=steps, checkpoint_every=1, keep=99, log_every=1,
        precision=precision, **trainer_keys,
    )  # fmt: skip
    module = ContrastiveModule(
        model, loss or ContrastiveLoss(), optimizer, warmup_cosine, steps, {}, accumulate, tower_dtype(precision)
    )
    trainer.fit(
        module,
        Loader(steps, resume_from, make),
        ckpt_path=folder / f"checkpoints/step={resume_from}.ckpt" if resume_from else None,
        weights_only=True,
    )
    return trainer


def saved(folder: Path, step: int) -> dict[str, Any]:
    return torch.load(folder / f"checkpoints/step={step}.ckpt", weights_only=True)


def same(left: Any, right: Any) -> bool:
    """Whether both are equal bit for bit, through nested dicts and lists."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
