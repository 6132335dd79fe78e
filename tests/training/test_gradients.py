"""Numbers that are not finite: who notices, what is kept, what the run says; norms by tower and clipping."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import batch, fit, same, saved, small_clip, spoilt
from torch import Tensor, nn

from diptych.base.batch import Batch
from diptych.base.errors import UserError
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.training.callbacks.gradients import Gradients, gradient_norms
from diptych.training.loggers import MetricsFile
from diptych.training.module import with_nan_if_not_finite
from diptych.training.optim import Muon, adamw, sgd


class Held(nn.Module):
    """As `ContrastiveModule` names things."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model


def callback(trainer: Any) -> Gradients:
    return next(c for c in trainer.callbacks if isinstance(c, Gradients))


def test_norms_are_those_of_the_towers_and_of_everything() -> None:
    model = small_clip()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(number))
    norms = gradient_norms(Held(model))
    for tower in ("image", "text"):
        flat = torch.cat([p.grad.flatten() for p in getattr(model, tower).parameters()])
        torch.testing.assert_close(norms[tower], flat.norm())
    torch.testing.assert_close(norms["all"], torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
    for parameter in model.image.parameters():
        parameter.grad = None
    assert gradient_norms(Held(model)).keys() == {"text", "all"}


def test_an_infinite_loss_leaves_no_finite_gradient() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    fine = with_nan_if_not_finite(weight.sum())
    fine.backward()
    assert fine == 3 and torch.equal(weight.grad, torch.ones(2))
    with_nan_if_not_finite(weight.sum() + torch.inf).backward()
    assert weight.grad.isnan().all()


def test_the_first_step_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path: Path) -> None:
    """With the file of the step before as the newest, a sentence, the keys, and no NaN in the metrics."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError) as error:
        fit(tmp_path, small_clip("resnet"), make=spoilt((3,)), loggers=[metrics])
    file = tmp_path / "nonfinite/step=3.json"
    assert f"At step 3 the loss is not finite: {file} has the keys" in str(error.value)
    keys = batch(2).keys
    told = {"step": 3, "not_finite": ["the loss"], "samples": {"image": keys}, "keys": [keys]}
    assert json.loads(file.read_text()) == told
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "step=1.ckpt", "step=2.ckpt"]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()

    trainer = fit(tmp_path, small_clip("resnet"), make=spoilt((3,)), resume_from=2, nonfinite_steps=1)
    assert callback(trainer).skipped == 1
    assert all(value.isfinite().all() for value in saved(tmp_path, 4)["state_dict"].values())


def test_the_samples_are_named_whose_features_are_not_finite(tmp_path: Path) -> None:
    """Where no batch norm mixes them, exactly those."""

    def make(step: int) -> Batch:
        images = batch(step).images.float() / 255
        images[3, 0, 0, 0] = torch.inf
        return dataclasses.replace(batch(step), images=images)

    with pytest.raises(UserError, match="At step 1 the loss"):
        fit(tmp_path, small_clip(), make=make, accumulate=2)
    assert json.loads((tmp_path / "nonfinite/step=1.json").read_text())["samples"] == {"image": ["0/3"]}


def test_a_file_that_ends_with_such_a_step_stops_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="At step 2 the loss"):
        fit(tmp_path, small_clip(), steps=2, make=spoilt((2,)))


@pytest.mark.parametrize("optimizer", [adamw, Muon, partial(sgd, lr=0.1)])
def test_a_skipped_step_changes_nothing(tmp_path: Path, optimizer: Any) -> None:
    """No weight, no running statistic, no momentum; the schedule and the number of the step go on."""
    trainer = fit(
        tmp_path, small_clip("resnet"), make=spoilt((3,)), nonfinite_steps=1, optimizer=optimizer, accumulate=2
    )
    before, after, last = (saved(tmp_path, step) for step in (2, 3, 4))
    assert same(before["state_dict"], after["state_dict"]) and not same(after["state_dict"], last["state_dict"])
    assert same(_momenta(before["optimizer_states"]), _momenta(after["optimizer_states"]))
    assert after["lr_schedulers"][0]["last_epoch"] == 3 and after["global_step"] == 3
    assert callback(trainer).numbers(trainer)["nonfinite_steps"] == 1


def _momenta(states: list[dict[str, Any]]) -> list[Any]:
    inner = states[0]
    return [part["state"] for part in ([inner] if "state" in inner else inner.values())]


def test_too_many_in_a_row_stop_and_single_ones_do_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="At step 7 the loss is not finite, like the 2 before it"):
        fit(tmp_path, small_clip(), steps=8, make=spoilt((2, 3, 5, 6, 7)), nonfinite_steps=2)
    assert sorted(f.name for f in (tmp_path / "nonfinite").iterdir()) == [f"step={n}.json" for n in (2, 3, 5, 6, 7)]
    assert saved(tmp_path, 6)["callbacks"]["Gradients"] == {"skipped": 4, "scaled_down": 0, "in_a_row": 2}


class Spoiling(ContrastiveLoss):
    """A finite loss whose gradient is not, for the image tower alone."""

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        return super().forward(image, text.detach(), logit_scale.detach()) + (0 * image.sum()).abs().sqrt()


def test_the_tower_is_named_whose_gradient_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="At step 1 the gradient of the image tower is not finite"):
        fit(tmp_path, small_clip(), loss=Spoiling())


def test_the_whole_gradient_is_clipped(tmp_path: Path) -> None:
    """SGD's first step, of a rate of 1, is as long as the gradient may be."""
    model = small_clip()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    trainer = fit(tmp_path, model, steps=1, clip=1e-3, optimizer=partial(sgd, lr=1.0, momentum=0.0))
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)
    norms = callback(trainer).numbers(trainer)
    parts = (norms["gradient_norm/image"] ** 2 + norms["gradient_norm/text"] ** 2) ** 0.5
    assert 1e-3 < parts <= norms["gradient_norm"] * 1.0001
