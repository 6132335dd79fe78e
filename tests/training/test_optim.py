"""Which parameters decay, what Muon does to a convolution, and the schedule."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from diptych.errors import UserError
from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, ModifiedResNet
from diptych.towers.text import TextTransformer
from diptych.training.optim import Muon, adamw, warmup_cosine


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
