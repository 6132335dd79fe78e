"""`build_step`: the trainer's own step, bit for bit, in a loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fits import batch, fit, saved, small_clip

import diptych
from diptych.base.batch import normalise
from diptych.base.errors import UserError
from diptych.loss import SigLIPLoss
from diptych.towers.clip import CLIP
from diptych.towers.vit import VisionTransformer
from diptych.training import build_step
from diptych.training.optim import warmup_cosine

STEPS = 3
RATE: dict[str, Any] = {"lr": 5e-3, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2}


def test_it_is_in_the_public_package() -> None:
    assert diptych.training.build_step is build_step


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
def test_steps_are_the_trainer_s_to_the_last_bit(kind: str, precision: str, tmp_path: Path) -> None:
    def optimizer(*modules: Any) -> torch.optim.Optimizer:
        from diptych.training.optim import adamw

        return adamw(*modules, **RATE)

    trained = small_clip(kind).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(tmp_path, trained, steps=STEPS, precision=precision, optimizer=optimizer, clip=None)
    model = small_clip(kind)
    step = build_step(model, **RATE, precision=precision)
    schedule = warmup_cosine(step.optimizer, STEPS)  # type: ignore[attr-defined]
    for number in range(STEPS):
        loss = step(batch(number).images, batch(number).tokens)
        schedule.step()
    expected = saved(tmp_path, STEPS)["state_dict"]
    found = model.state_dict()
    assert expected.keys() == {f"model.{name}" for name in found} and len(found) > 20
    assert all(torch.equal(value, expected[f"model.{name}"]) for name, value in found.items())
    assert loss.shape == () and not loss.requires_grad


def test_prepared_floats_give_the_same_as_the_bytes_that_they_were_made_of() -> None:
    given, models = batch(0), [small_clip(), small_clip()]
    losses = [
        build_step(models[0], **RATE)(given.images, given.tokens),
        build_step(models[1], **RATE)(normalise(given.images, models[1].mean, models[1].std), given.tokens),
    ]
    assert torch.equal(*losses)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_is_adamw_on_the_paper_s_loss_written_out() -> None:
    """In float64, against autograd through figure 3's pseudo-code and torch's AdamW."""
    model, plain = small_clip().double(), small_clip().double()
    images, tokens = torch.randn(8, 3, 16, 16, dtype=torch.float64), batch(0).tokens
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    rest = [p for p in plain.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=5e-3, betas=(0.9, 0.98), eps=1e-6,
        weight_decay=0.2,
    )  # fmt: skip
    step = build_step(model, **RATE, precision="64-true")
    for _ in range(2):
        image = F.normalize(plain.image(images), dim=1)
        text = F.normalize(plain.text(tokens), dim=1)
        logits = plain.logit_scale.exp() * image @ text.T
        target = torch.arange(8)
        expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(step(images, tokens), expected.detach(), rtol=1e-12, atol=0)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_clipping_another_loss_and_the_limit_of_the_scale() -> None:
    model, loss = small_clip(), SigLIPLoss(bias_init=-3.0)
    with torch.no_grad():
        model.logit_scale.fill_(6.0)
    before = [p.detach().clone() for p in model.parameters()]
    build_step(model, **RATE, loss=loss, clip=1e-3)(batch(0).images, batch(0).tokens)
    assert model.logit_scale.exp() <= 100.001
    assert loss.logit_bias.item() != -3.0
    total = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
    assert 0 < total <= 1.001e-3 and len(before) > 20


def test_what_it_can_t_do_is_one_sentence() -> None:
    with pytest.raises(UserError, match="doesn't support precision=16-mixed: choose one of 32-true"):
        build_step(small_clip(), precision="16-mixed")
    dropping = VisionTransformer(16, 8, width=16, layers=1, embed_dim=12, heads=2, patch_dropout=0.5)
    with pytest.raises(UserError, match=r"create the model with image\.patch_dropout=0"):
        build_step(CLIP(dropping, small_clip().text))
