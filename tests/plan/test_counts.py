"""Counts without memory are those of a real forward pass."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from diptych.base.errors import UserError
from diptych.commands.create import create_model
from diptych.model.patches import kept_patches
from diptych.plan.counts import count
from diptych.towers.clip import CLIP
from diptych.towers.transformer import PLAIN_ATTENTION_TOKENS_16_BITS
from diptych.training.parallel import blocks_of, recomputed

PAIRS, TOKENS = 3, PLAIN_ATTENTION_TOKENS_16_BITS + 31  # longer than what a CPU writes attention out for
SMALL = {
    "vit_b16": {"image.image_size": 272, "image.width": 64, "image.layers": 2, "image.embed_dim": 48},
    "rn50": {"image.image_size": 64, "image.width": 16, "image.layers": [1, 2, 1, 1], "image.embed_dim": 48},
}


def model_of(name: str) -> CLIP:
    text = {"text.width": 64, "text.layers": 2, "text.context_length": TOKENS, "text.vocab_size": 500}
    return create_model(name, {**SMALL[name], **text})


def test_dropped_patches_cost_nothing() -> None:
    """Counted as a real pass over the patches that are left, with what it keeps."""
    smaller = {"image.width": 64, "image.layers": 2, "image.embed_dim": 512, "text.layers": 1}
    model = create_model("vit_b16", {**smaller, "image.patch_dropout": 0.5})
    pixels = torch.randn(PAIRS, 3, 224, 224)
    left = kept_patches(model, torch.arange(PAIRS), pixels)
    assert left is not None and left.shape == (PAIRS, 98)
    counted = count(model, 77, False).image
    seen = FlopCounterMode(display=False)
    with seen, sdpa_kernel(SDPBackend.MATH):
        model.image(pixels, left)
    assert counted.flops == pytest.approx(seen.get_total_flops() / PAIRS, rel=0.01)
    assert counted.kept.of(PAIRS) == pytest.approx(kept(model.image, (pixels, left), False), rel=0.05)


def samples(model: CLIP, pairs: int = PAIRS) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, 498, (pairs, TOKENS))
    tokens[:, -1] = 499
    return torch.randn(pairs, 3, model.image_size, model.image_size), tokens


def kept(tower: nn.Module, inputs: tuple[Tensor, ...], half: bool) -> int:
    """Bytes that a real forward pass keeps, each memory once, parameters and the inputs aside."""
    seen: dict[int, Tensor] = {x.untyped_storage().data_ptr(): x for x in inputs}
    seen |= {p.untyped_storage().data_ptr(): p for p in tower.parameters()}
    own = set(seen)

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", enabled=half):
        tower(*inputs)
    return sum(x.untyped_storage().nbytes() for address, x in seen.items() if address not in own)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_kept_bytes_are_those_of_a_real_pass(name: str, half: bool) -> None:
    model = model_of(name)
    counts = count(model, TOKENS, half)
    for tower, counted, inputs in zip((model.image, model.text), counts.towers, samples(model), strict=True):
        assert counted.kept.of(PAIRS) == pytest.approx(kept(tower, (inputs,), half), rel=0.05)


def most(tower: nn.Module, inputs: Tensor) -> int:
    """Bytes that a real forward and backward pass takes at most, by what the allocator says."""
    for p in tower.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        tower(inputs).sum().backward()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_the_most_that_lives_at_once_is_what_an_allocator_counts(name: str, again: bool) -> None:
    model = model_of(name)
    counts = count(model, TOKENS, half=False, recompute=again)
    if again:
        for block in blocks_of(model):
            recomputed(block)
    for tower, counted, inputs in zip((model.image, model.text), counts.towers, samples(model, 16), strict=True):
        ours = max(counted.forward.of(16), counted.backward.of(16))
        assert ours == pytest.approx(most(tower, inputs), rel=0.05)


@pytest.mark.parametrize("name", SMALL)
def test_operations_are_those_of_a_real_pass(name: str) -> None:
    model = model_of(name)
    counts = count(model, TOKENS, half=False)
    inputs: Any = samples(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(*inputs)
    assert PAIRS * counts.forward_flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert counts.parameters == sum(p.numel() for p in model.parameters())


def test_short_captions_cost_less_and_impossible_ones_are_refused() -> None:
    model = model_of("vit_b16")
    whole, short = count(model, TOKENS, half=False), count(model, 16, half=False)
    assert short.text.kept.each < whole.text.kept.each / 4 and short.text.flops < whole.text.flops / 4
    assert short.image == whole.image
    with pytest.raises(UserError, match=f"tokens={TOKENS + 1}"):
        count(model, TOKENS + 1, half=False)
