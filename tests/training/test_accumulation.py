"""Parts of a batch: the order of rows, random draws, autocast, frozen towers, and what is kept meanwhile."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diptych import create_model
from diptych.base.files import ROOT
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.towers.text import TextTransformer
from diptych.towers.vit import VisionTransformer
from diptych.training.accumulation import features, untracked
from diptych.training.finetune import finetune


def clip() -> CLIP:
    torch.manual_seed(0)
    return CLIP(
        VisionTransformer(16, 8, width=16, layers=2, embed_dim=12, heads=2),
        TextTransformer(12, width=16, layers=2, heads=2, context_length=8, vocab_size=20),
    )


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8)
    tokens = torch.tensor([[18, 1 + row % 15, 2, 19] for row in range(rows)])
    return images, tokens


def gradients(model: CLIP, parts: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    model.zero_grad()
    image, text = features(model, *batch(), parts=parts, dtype=dtype)
    ContrastiveLoss()(image, text, model.logit_scale.exp()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    ours_, theirs_ = (torch.cat([g.flatten().double() for g in x.values()]) for x in (ours, theirs))
    return float((ours_ - theirs_).norm() / theirs_.norm())


def test_features_come_in_the_order_of_the_rows() -> None:
    model = clip()
    whole, parted = features(model, *batch()), features(model, *batch(), parts=4)
    for one, other in zip(whole, parted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("parts", [2, 4])
def test_random_draws_are_the_same_when_a_part_is_encoded_again(parts: int) -> None:
    """Dropout's gradient is that of the masks which the features were made with."""
    model = clip().double()
    model.text.ln_final = nn.Sequential(model.text.ln_final, nn.Dropout(0.5))
    torch.manual_seed(3)
    ours = gradients(model, parts)
    torch.manual_seed(3)
    model.zero_grad()
    images, tokens = batch()
    kept = [features(model, images[j::parts], tokens[j::parts]) for j in range(parts)]
    # Images draw nothing, so that the texts of the parts draw in the order in which `features` has them draw.
    image, text = (torch.stack(each, dim=1).flatten(0, 1) for each in zip(*kept, strict=True))
    ContrastiveLoss()(image, text, model.logit_scale.exp()).backward()
    assert relative(ours, {n: p.grad for n, p in model.named_parameters()}) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_the_same_when_a_part_is_encoded_again(dtype: torch.dtype) -> None:
    model = clip()
    with torch.autocast("cpu", dtype):
        whole, parted = gradients(model, 1), gradients(model, 4)
    assert all(gradient.dtype == torch.float32 for gradient in parted.values())
    assert relative(parted, whole) < 0.02


def test_a_type_for_the_towers_leaves_their_weights_alone() -> None:
    model = clip()
    whole = gradients(model, 1)
    for parts in (1, 4):
        low = gradients(model, parts, torch.bfloat16)
        assert all(gradient.dtype == torch.float32 for gradient in low.values())
        assert 1e-4 < relative(low, whole) < 0.05


def test_a_frozen_tower_is_encoded_once() -> None:
    def flops(parts: int) -> int:
        model = clip()
        finetune(model, image="none")
        with FlopCounterMode(display=False) as counter:
            gradients(model, parts)
        return counter.get_total_flops()

    model = clip()
    with FlopCounterMode(display=False) as counter:
        features(model, *batch())
    image, text = (counter.get_flop_counts()["Global"], 0)
    with FlopCounterMode(display=False) as counter:
        model.encode_text(batch()[1])
    text = counter.get_total_flops()
    assert flops(4) - flops(1) <= text < sum(image.values())
    model = clip()
    finetune(model, image="none")
    assert relative(gradients(model, 4), gradients(model, 1)) < 1e-5
    finetune(model, image="none", text="none")
    assert gradients(model, 2).keys() == {"logit_scale"}


def test_statistics_stay_while_parts_are_encoded_again() -> None:
    norm = nn.BatchNorm2d(3)
    buffers = dict(norm.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    with untracked(norm):
        norm(torch.full((2, 3, 2, 2), float("nan")))
        assert norm.running_mean.isnan().all() and norm.num_batches_tracked == 1
    for name, buffer in norm.named_buffers():
        assert buffer is buffers[name] and torch.equal(buffer, before[name])


def test_memory_falls_with_the_parts() -> None:
    """Bytes of tensors alive at once, counted: a quarter of the batch at a time needs about a quarter."""
    path = ROOT / "benchmarks/accumulation.py"
    spec = importlib.util.spec_from_file_location("accumulation_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    model = create_model("vit_tiny", **{"text.vocab_size": benchmark.IDS}).train()
    peaks = {parts: benchmark.measured(model, 16, parts) for parts in (1, 4)}
    assert peaks[4][0] < 0.4 * peaks[1][0]
    assert peaks[4][1] == pytest.approx(4 / 3 * peaks[1][1], rel=0.02)  # one forward pass more
