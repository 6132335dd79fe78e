"""Which parameters decay, what Muon does to a convolution, and the schedule."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import fit, same, saved, small_clip
from torch import nn

from diptych.base.errors import UserError
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, ModifiedResNet
from diptych.towers.text import TextTransformer
from diptych.training.optim import Muon, adamw, sgd, warmup_cosine


def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(
        ModifiedResNet(16, [1, 1], 8, 12, block=BasicBlock, stem_pool=False),
        TextTransformer(12, width=16, layers=1, heads=2, context_length=8, vocab_size=20),
    )


def gradients(clip: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in clip.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_adamw_decays_matrices_alone() -> None:
    clip = model()
    optimizer = adamw(clip, lr=0.1, weight_decay=0.2)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in clip.named_parameters() if id(p) in decayed}
    assert {"image.conv1.weight", "text.token_embedding.weight", "text.text_projection"} <= names
    assert not {n for n in names if n.endswith("bias") or "bn" in n or "ln_" in n or n == "logit_scale"}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(clip.parameters()))


def test_muon_takes_every_parameter_once_and_hidden_matrices_alone() -> None:
    clip = model()
    optimizer = Muon(clip)
    every = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in clip.parameters())
    matrices = {id(p) for p in optimizer.param_groups[0]["params"]}
    names = {name for name, p in clip.named_parameters() if id(p) in matrices}
    assert "image.conv2.weight" in names and "text.transformer.resblocks.0.attn.in_proj_weight" in names
    assert not names & {"image.conv1.weight", "text.token_embedding.weight", "text.positional_embedding"}
    assert not {name for name in names if "positional" in name or "bias" in name or "bn" in name}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_step_is_torch_muon_on_the_flattened_convolution(layout: torch.memory_format) -> None:
    clip = model().to(memory_format=layout)
    optimizer = Muon(clip, lr=0.02, momentum=0.95, weight_decay=0.02)
    weight = clip.image.layer1[0].conv2.weight
    plain = nn.Parameter(weight.detach().clone().contiguous().flatten(1))
    peer = torch.optim.Muon([plain], lr=0.02, momentum=0.95, weight_decay=0.02, adjust_lr_fn="original")
    for seed in range(3):
        gradients(clip, seed)
        plain.grad = weight.grad.contiguous().flatten(1).clone()
        optimizer.step()
        peer.step()
    # Muon's own products are bf16, so a permutation of columns may round otherwise.
    torch.testing.assert_close(weight.detach().contiguous().flatten(1), plain.detach(), rtol=0, atol=2e-3)


def test_muon_moves_the_weights_of_a_model_that_was_moved() -> None:
    clip = model()
    optimizer = Muon(clip)
    clip.to(memory_format=torch.channels_last)  # new memory under the same parameters
    before = clip.image.layer1[0].conv2.weight.detach().clone()
    gradients(clip)
    optimizer.step()
    assert (clip.image.layer1[0].conv2.weight - before).abs().max() > 1e-4


def test_muon_goes_on_exactly_from_its_state() -> None:
    clip = model()
    optimizer = Muon(clip)
    schedule = warmup_cosine(optimizer, 10, warmup=2)
    gradients(clip, 0)
    optimizer.step()
    schedule.step()
    twin = copy.deepcopy(clip)
    other = Muon(twin, lr=123.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for c, o in ((clip, optimizer), (twin, other)):
        gradients(c, 1)
        o.step()
    for ours, theirs in zip(clip.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_muon_needs_a_hidden_matrix() -> None:
    with pytest.raises(UserError, match="optim=adamw"):
        Muon(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_schedule_warms_up_and_ends_at_zero() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0) and rates[-1] < 0.001
    assert all(a <= b for a, b in itertools.pairwise(rates[:10]))
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match=r"schedule\.warmup=2000"):
        warmup_cosine(optimizer, steps=300, warmup=2000)


@pytest.mark.parametrize("decay", [None, 1.0])
def test_no_layer_decay_leaves_one_rate(decay: float | None) -> None:
    assert {group["lr"] for group in adamw(model(), lr=0.1, layer_decay=decay).param_groups} == {0.1}
    assert [group["lr"] for group in Muon(model(), lr=0.1, adamw_lr=0.2, layer_decay=decay).param_groups] == [
        0.1,
        0.2,
        0.2,
    ]


def test_layer_decay_is_beits_rule_in_each_tower() -> None:
    """Head 1, last block d, …, embeddings d^(blocks + 1); the schedule scales them all alike."""
    clip = model()
    optimizer = adamw(clip, lr=1.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "logit_scale": 1.0, "image.attnpool.c_proj.weight": 1.0, "text.text_projection": 1.0,
        "image.layer2.0.conv1.weight": 0.5, "image.layer1.0.bn1.bias": 0.25, "image.conv1.weight": 0.125,
        "text.transformer.resblocks.0.ln_1.weight": 0.5, "text.token_embedding.weight": 0.25,
    }  # fmt: skip
    assert {name: rates[id(p)] for name, p in clip.named_parameters() if name in expected} == expected
    assert len(rates) == len(list(clip.parameters()))
    assert optimizer.param_groups[0]["lr"] == 1.0  # the one that is logged
    schedule = warmup_cosine(optimizer, 10, warmup=2)
    assert rates[id(clip.image.conv1.weight)] == 0.125
    optimizer.step()
    schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 0.5, 0.25, 0.125}


def test_muon_moves_a_layer_by_its_own_rate() -> None:
    """Two models, one with a decay of a half: what stands n layers deep moves half to the nth as far."""
    plain, layered = model(), model()
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    for clip, decay in ((plain, None), (layered, 0.5)):
        optimizer = Muon(clip, weight_decay=0.0, adamw_weight_decay=0.0, layer_decay=decay)
        gradients(clip)
        optimizer.step()
    above = plain.layers_above()
    assert {above[n] for n in above} == {0, 1, 2, 3}
    for (name, whole), part in zip(plain.named_parameters(), layered.parameters(), strict=True):
        moved = (whole - before[name]) * 0.5 ** above[name]
        torch.testing.assert_close(part - before[name], moved, rtol=1e-3, atol=1e-6, msg=name)


def test_muon_with_layer_decay_goes_on_exactly_from_its_state() -> None:
    clip = model()
    optimizer = Muon(clip, layer_decay=0.7)
    gradients(clip, 0)
    optimizer.step()
    twin = copy.deepcopy(clip)
    other = Muon(twin, layer_decay=0.7)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for c, o in ((clip, optimizer), (twin, other)):
        gradients(c, 1)
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(clip.parameters(), twin.parameters(), strict=True))


def test_muon_takes_the_first_trained_convolution_of_a_frozen_stem_for_a_hidden_one() -> None:
    clip = model()
    clip.image.conv1.weight.requires_grad_(False)
    matrices = {id(p) for p in Muon(clip).param_groups[0]["params"]}
    assert id(clip.image.conv2.weight) in matrices and id(clip.image.conv1.weight) not in matrices


@pytest.mark.parametrize("decay", [0.0, 1.5, -0.1])
@pytest.mark.parametrize("make", [adamw, Muon])
def test_a_layer_decay_that_is_none_is_refused(make: Callable, decay: float) -> None:
    with pytest.raises(UserError, match=rf"optim\.layer_decay={decay} must be above 0"):
        make(model(), layer_decay=decay)


class Biased(nn.Module):
    """A loss with parameters of its own, one of them a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self.matrix = nn.Parameter(torch.ones(2, 2))

    def forward(self, image: torch.Tensor, text: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
        logits = logit_scale * image @ text.T + self.logit_bias * self.matrix.mean()
        signs = 2 * torch.eye(len(image)) - 1
        return -nn.functional.logsigmoid(signs * logits).sum(-1).mean()


@pytest.mark.parametrize("make", [adamw, Muon, sgd])
def test_a_loss_has_its_parameters_trained_without_decay(make: Callable) -> None:
    clip, loss = model(), Biased()
    optimizer = make(clip, loss)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == len([*clip.parameters(), *loss.parameters()])
    assert [groups[id(p)]["weight_decay"] for p in loss.parameters()] == [0.0, 0.0]
    for parameter in loss.parameters():
        parameter.grad = torch.ones_like(parameter)
    gradients(clip)
    before = loss.logit_bias.item()
    optimizer.step()
    assert loss.logit_bias.item() < before


def test_a_loss_with_parameters_resumes_exactly(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"steps": 4, "optimizer": adamw}
    fit(tmp_path / "whole", small_clip(), loss=Biased(), **keys)
    fit(tmp_path / "broken", small_clip(), loss=Biased(), **keys)
    fit(tmp_path / "broken", small_clip(), loss=Biased(), resume_from=2, **keys)
    left, right = saved(tmp_path / "whole", 4), saved(tmp_path / "broken", 4)
    assert same(left["state_dict"], right["state_dict"]) and same(left["optimizer_states"], right["optimizer_states"])
    assert left["state_dict"]["loss.logit_bias"] != -10
