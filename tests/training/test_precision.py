"""What each precision keeps in float32, and that a run in it goes on exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from fits import batch, fit, same, saved, small_clip
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.loss import ContrastiveLoss
from diptych.training.callbacks.gradients import Gradients
from diptych.training.precision import NAMES, computed_in, make_precision, resolve_precision


def test_precision_by_name() -> None:
    assert resolve_precision("auto", "cpu") in ("bf16-mixed", "32-true")
    assert [resolve_precision(name) for name in NAMES] == list(NAMES)
    assert [make_precision(name, "cpu").precision for name in NAMES if name != "bf16-true"] == [
        name for name in NAMES if name != "bf16-true"
    ]
    with pytest.raises(UserError, match=r"trainer\.precision=fp16-mixed is unknown: take one of auto, 32-true"):
        resolve_precision("fp16-mixed")


@pytest.mark.parametrize("precision", NAMES)
def test_weights_and_optimiser_state_are_wide_and_a_resume_is_exact(tmp_path: Path, precision: str) -> None:
    wide = torch.float64 if precision == "64-true" else torch.float32
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    keys: dict[str, Any] = {"precision": precision, "accumulate": 2, "steps": 5}
    trainer = fit(whole, small_clip("resnet"), **keys)
    fit(broken, small_clip("resnet"), **keys)
    fit(broken, small_clip("resnet"), resume_from=3, **keys)
    left, right = saved(whole, 5), saved(broken, 5)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert same(left[part], right[part]), part
    floats = [v for v in left["state_dict"].values() if v.is_floating_point()]
    floats += [v for s in left["optimizer_states"][0]["state"].values() for k, v in s.items() if k != "step"]
    assert {value.dtype for value in floats} == {wide}
    assert not same(saved(whole, 1)["state_dict"], left["state_dict"])
    if precision == "16-mixed":
        assert same(left["ScaledHalf"], right["ScaledHalf"]) and left["ScaledHalf"]["scale"] > 1
        assert gradients_of(trainer).numbers(trainer)["scale"] == left["ScaledHalf"]["scale"]


def gradients_of(trainer: L.Trainer) -> Gradients:
    return next(c for c in trainer.callbacks if isinstance(c, Gradients))


def test_the_scaler_seeking_its_scale_is_counted_and_not_held_against_the_data(tmp_path: Path) -> None:
    """A scale that overflows float16 is halved until it doesn't, at steps that change nothing and stop nothing."""
    fit(tmp_path, small_clip(), steps=2, precision="16-mixed")
    checkpoint = tmp_path / "checkpoints/step=1.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    state["ScaledHalf"]["scale"], state["callbacks"]["Gradients"]["scaled_down"] = 2.0**40, 0
    torch.save(state, checkpoint)
    trainer = fit(tmp_path, small_clip(), steps=4, precision="16-mixed", resume_from=1)
    assert gradients_of(trainer).scaled_down == 3 and gradients_of(trainer).skipped == 0
    assert same(saved(tmp_path, 4)["state_dict"], state["state_dict"])
    assert gradients_of(trainer).numbers(trainer)["scale"] == 2.0**37


class FirstNorm(L.Callback):
    """The norm of the first gradient that a step was taken with."""

    norm: float | None = None

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        norm = float(gradients_of(trainer).norms["all"])
        self.norm = norm if self.norm is None and math.isfinite(norm) else self.norm


def test_the_scaler_does_not_change_what_is_clipped(tmp_path: Path) -> None:
    """Gradients are unscaled before they are measured, with a fused optimiser too."""
    norms = []
    for precision in ("32-true", "16-mixed"):
        first = FirstNorm()
        fit(
            tmp_path / precision,
            small_clip(),
            steps=8,
            make=lambda _: batch(0),
            precision=precision,
            callbacks=[first],
        )
        norms.append(first.norm)
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_norms_take_their_statistics_in_float32() -> None:
    """LayerNorm of bfloat16 rows far from zero: the mean alone, in bfloat16, would be off by whole units."""
    rows = (torch.randn(4, 512, generator=torch.Generator().manual_seed(0)) + 200).bfloat16()
    norm = nn.LayerNorm(512)
    exact = F.layer_norm(rows.double(), (512,))
    assert (computed_in(torch.bfloat16, norm, rows).double() - exact).abs().max() < 0.02
    narrow = (rows - rows.sum(-1, keepdim=True) / 512) / rows.std(-1, keepdim=True)
    assert (narrow.double() - exact).abs().max() > 0.05  # so the test can fail


def test_a_small_update_is_not_lost_under_bf16_true() -> None:
    """Weights stay float32: an update of a 10,000th of a weight moves it, which bfloat16 would round away."""
    model = small_clip()
    one = batch(0)
    weight = model.text.text_projection
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = 1e-4 * weight.detach()
    optimizer.step()
    assert (weight != before).all() and (before.bfloat16() - (1e-4 * before).bfloat16() == before.bfloat16()).all()
    features = computed_in(torch.bfloat16, model.text, one.tokens)
    assert features.dtype == torch.bfloat16 and weight.dtype == torch.float32


class Narrow(ContrastiveLoss):
    """Notes in what type features and loss come."""

    seen: set[torch.dtype]

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        loss = super().forward(image, text, logit_scale)
        self.seen = {image.dtype, text.dtype, logit_scale.dtype, loss.dtype}
        return loss


@pytest.mark.parametrize("precision", NAMES)
def test_features_scale_and_loss_are_wide(tmp_path: Path, precision: str) -> None:
    loss = Narrow()
    fit(tmp_path, small_clip(), steps=1, precision=precision, loss=loss)
    assert loss.seen == {torch.float64 if precision == "64-true" else torch.float32}
