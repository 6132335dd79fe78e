"""Law 1 under FSDP2: loss, gradients, buffers and the gradient's norm of shards equal one process's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from ranks import test_one_result as one_result
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.launch.distributed import synchronise_batch_norm
from diptych.loss import ContrastiveLoss
from diptych.towers.clip import CLIP
from diptych.training.parallel import average_gradients, blocks_of, divided, joined, mesh_of, recomputed, shard, whole

KINDS = one_result.KINDS
VARIANTS = {  # replicas, micro-batches, blocks computed again
    "plain": (1, 1, False),
    "recomputed": (1, 1, True),
    "micro-batches": (1, 2, False),
    "replicated": (2, 1, False),
    "all of these": (2, 2, True),
}

pytestmark = pytest.mark.xdist_group("sharding")  # what they compare is made once


class Scaled(nn.Module):
    """A loss with a parameter of its own, as SigLIP's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return ContrastiveLoss()(image, text, scale * self.bias.exp())


def encode(model: CLIP, images: Tensor, tokens: Tensor, parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """In strided micro-batches, each of which keeps nothing but its input for the backward pass."""
    if parts == 1:
        return model(images, tokens)
    features = [
        checkpoint(model, images[part::parts], tokens[part::parts], use_reentrant=False) for part in range(parts)
    ]
    image, text = (torch.stack([f[tower] for f in features], 1).flatten(0, 1) for tower in (0, 1))
    return image, text, model.logit_scale.exp()


def step(rank: int, world: int, kind: str, variant: str) -> dict[str, Any]:
    """One step on this rank's rows; one process is not sharded, but has the same micro-batches."""
    replicas, parts, again = VARIANTS[variant]
    model, loss = synchronise_batch_norm(one_result.small_clip(kind)), Scaled()
    model.to(memory_format=torch.channels_last)
    if world > 1:
        for block in blocks_of(model) if again else ():
            recomputed(block)
        shard(model, mesh_of("cpu", world, replicas))
        average_gradients(loss.parameters())
    images, tokens = (x.chunk(world)[rank] for x in one_result.batch())
    value = loss(*encode(model, images, tokens, parts))
    value.backward()
    named = [*model.named_parameters(), *loss.named_parameters()]
    norm = nn.utils.clip_grad_norm_([p for _, p in named], 1e9)
    return {
        "loss": value.detach(),
        "norm": joined(norm, keep=True),
        "gradients": {name: joined(p.grad, keep=True).contiguous() for name, p in named},
        "buffers": dict(model.named_buffers()),
    }


def steps(rank: int, world: int, variants: list[str]) -> dict[str, Any]:
    return {f"{kind} {variant}": step(rank, world, kind, variant) for kind in KINDS for variant in variants}


def compare(alone: dict[str, Any], ranks: list[dict[str, Any]], buffers: bool) -> float:
    """The largest relative difference of a gradient; everything else is asserted."""
    loss = torch.stack([result["loss"] for result in ranks]).mean()
    assert abs(loss - alone["loss"]) / alone["loss"] < 1e-12
    floor = 1e-6 * max(float(gradient.abs().max()) for gradient in alone["gradients"].values())
    each = []
    for result in ranks:
        assert abs(result["norm"] - alone["norm"]) / alone["norm"] < 1e-12
        assert result["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            difference = (result["gradients"][name] - gradient).abs().max() / max(gradient.abs().max(), floor)
            each.append(float(difference))
        for name, buffer in alone["buffers"].items() if buffers else ():
            torch.testing.assert_close(result["buffers"][name], buffer, rtol=1e-12, atol=1e-12)
    return float(np.max(each))  # NaN where one is, which `max` would pass over


def differences(ranks: list[dict[str, Any]], variants: list[str]) -> dict[str, float]:
    """Case -> the largest relative difference of any parameter's gradient to one process."""
    found = {}
    for kind in KINDS:
        for variant in variants:
            # Micro-batches alone forget nothing of what batch norm saw twice: that is the trainer's to prevent.
            buffers = VARIANTS[variant][1] == 1
            name = f"{kind} {variant}"
            found[name] = compare(step(0, 1, kind, variant), [result[name] for result in ranks], buffers)
    return found


PLAIN = ["plain", "recomputed", "micro-batches"]


def on_two(rank: int, world: int) -> dict[str, Any]:
    """All that is done on two ranks: a process costs more than a step."""
    low = {kind: low_step(rank, world, kind) for kind in KINDS}
    return {"steps": steps(rank, world, PLAIN), "low": low, "lonely": lonely(rank, world)}


@pytest.fixture(scope="session")
def two() -> list[dict[str, Any]]:
    return on_ranks(2, on_two)


def test_two_shards_equal_one_process(two: list[dict[str, Any]]) -> None:
    for name, worst in differences([result["steps"] for result in two], PLAIN).items():
        assert worst < 1e-10, (name, worst)


@pytest.mark.slow
def test_four_shards_and_two_replicas_of_two_equal_one_process() -> None:
    for name, worst in differences(on_ranks(4, steps, list(VARIANTS)), list(VARIANTS)).items():
        assert worst < 1e-10, (name, worst)


def lonely(rank: int, world: int) -> dict[str, Any]:
    """Rank 0 encodes twice as often as the others, each tower by itself; then they train together."""
    model = one_result.small_clip("vit-transformer")
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    shard(model, mesh_of("cpu", world))
    images, tokens = one_result.batch()
    model(images, tokens)[0].sum().backward()
    with whole(model), torch.inference_mode():
        first = model.encode_image(images[:2], normalize=True)
        if rank == 0:
            model.encode_image(images[2:])
        text = model.encode_text(tokens[:2])
    cut = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in model.parameters())
    model(images, tokens)[0].sum().backward()
    own = model.state_dict()
    again = {name: divided(value, own[name]) for name, value in plain.items()}
    back = {name: torch.equal(joined(value, True).contiguous(), plain[name]) for name, value in again.items()}
    return {"image": first.clone(), "text": text.clone(), "cut": cut, "back": all(back.values())}


def test_towers_encode_alone_and_ranks_without_waiting(two: list[dict[str, Any]]) -> None:
    model = one_result.small_clip("vit-transformer")
    images, tokens = one_result.batch()
    count = sum(p.numel() for p in model.parameters())
    for result in (found["lonely"] for found in two):
        torch.testing.assert_close(result["image"], model.encode_image(images[:2], normalize=True))
        torch.testing.assert_close(result["text"], model.encode_text(tokens[:2]))
        assert result["cut"] < 0.55 * count and result["back"]


def low_step(rank: int, world: int, kind: str) -> dict[str, Any]:
    """A step in bfloat16 from float32 weights; one process computes with rounded weights."""
    model = synchronise_batch_norm(one_result.small_clip(kind)).float()
    images, tokens = (x.chunk(world)[rank] for x in one_result.batch())
    images = images[:, :, : model.image_size, : model.image_size].float()
    if world > 1:
        shard(model, mesh_of("cpu", world), torch.bfloat16)
        image, text, scale = model(images, tokens)
    else:
        norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
        kept = {*norms, id(model.logit_scale)}
        rounded = {name: p.bfloat16() for name, p in model.named_parameters() if id(p) not in kept}
        image, text, scale = torch.func.functional_call(model, rounded, (images.bfloat16(), tokens))
    ContrastiveLoss()(image, text, scale).backward()
    found = {name: joined(p.grad, keep=True).contiguous() for name, p in model.named_parameters()}
    if world > 1:
        with whole(model.eval()), torch.inference_mode():
            assert model.encode_image(images).isfinite().all()
    return {"image": image.detach(), "gradients": found}


def test_bfloat16_is_gathered_and_gradients_are_float32(two: list[dict[str, Any]]) -> None:
    ranks = [result["low"] for result in two]
    for kind in KINDS:
        alone, ours = low_step(0, 1, kind), ranks[0][kind]["gradients"]
        together = torch.cat([result[kind]["image"] for result in ranks])
        torch.testing.assert_close(together, alone["image"], rtol=0, atol=2e-2)
        assert all(gradient.dtype == torch.float32 for gradient in ours.values())
        flat = [torch.cat([g[name].flatten() for name in ours]) for g in (ours, alone["gradients"])]
        assert nn.functional.cosine_similarity(*flat, dim=0) > 0.99


if __name__ == "__main__":  # the table of docs/evidence/parallel.md
    for world, variants in ((2, PLAIN), (4, list(VARIANTS))):
        for name, worst in differences(on_ranks(world, steps, variants), variants).items():
            print(f"{world} ranks  {name:40} {worst:.1e}", flush=True)
