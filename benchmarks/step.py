"""One training step, ours and open_clip's, in one run: time, memory, and the fraction of the peak arithmetic speed.

python benchmarks/step.py [MODEL …] [--precision fp32|bf16-mixed|bf16-true] [--batch 32] [--threads 2] [--rounds 5]

Both start from the same weights, pictures and captions of 5 to 34 tokens. Their loss and gradients are compared
before anything is timed; in bf16 they can't be equal, so each is compared with the fp32 gradient. A step is forward,
loss, backward and AdamW, as in each trainer: open_clip with its defaults (texts of 77 tokens, pictures as normalised
floats), ours with `conf/optim/adamw.yaml`, from bytes that it normalises itself. Both bf16 precisions are compared
with open_clip's autocast, its only one with fp32 weights. Each runs in its own process, one step in turns. Ours tells
the C library to keep freed memory, as training does. Prints medians, minimum and maximum. Memory is the peak of the
process in those steps, minus its memory before the model was made. The fraction of the peak is the operations of our
forward pass times three, relative to a large matrix product of the same precision, timed in the same rounds.

open_clip comes from `.venv-peers` (`make peers`) and uses the same torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contender import Actions, Contender, alternating, timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import diptych
from diptych.base.allocator import keep_freed_memory
from diptych.base.batch import normalise
from diptych.interop import from_open_clip
from diptych.interop.architecture import to_ours
from diptych.loss import ContrastiveLoss
from diptych.model.patches import kept_patches
from diptych.towers.clip import CLIP, OPENAI_MEAN, OPENAI_STD
from diptych.training.accumulation import features
from diptych.training.optim import adamw
from diptych.training.precision import tower_dtype

HERE = Path(__file__).parent
NAMES = {"vit_b32": "ViT-B-32", "vit_b16": "ViT-B-16", "vit_l14": "ViT-L-14", "rn50": "RN50", "rn101": "RN101"}
SOS, EOS = 49406, 49407
Step = Callable[[], Tensor]


def peer_package() -> Any:
    """open_clip's package, installed or from the peers' environment, whose path comes last. Raises ImportError."""
    sys.path += map(str, (HERE.parent / ".venv-peers/lib").glob("python*/site-packages"))
    sys.path.append(str(HERE.parent / "tests/peers"))
    import openings  # noqa: F401  before whatever imports torchvision

    # isort: split
    import open_clip as peer

    return peer


def batch(size: int, side: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [B, 3, side, side] and captions int64 [B, 77] of 5 to 34 tokens."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, side, side), generator=draw, dtype=torch.uint8)
    tokens = torch.zeros(size, 77, dtype=torch.long)
    for row, length in zip(tokens, torch.randint(5, 35, (size,), generator=draw).tolist(), strict=True):
        row[:length] = torch.randint(1, 49000, (length,), generator=draw)
        row[0], row[length - 1] = SOS, EOS
    return images, tokens


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager:
    return torch.autocast(device, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def theirs(model: nn.Module, size: int, precision: str, device: str = "cpu") -> tuple[Step, torch.optim.Optimizer]:
    """Forward and loss as in open_clip's training loop, and its optimiser (open_clip_train/main.py)."""
    from open_clip.loss import ClipLoss

    side = model.visual.image_size
    images, tokens = (x.to(device) for x in batch(size, side if isinstance(side, int) else side[0]))
    pixels = normalise(images, OPENAI_MEAN, OPENAI_STD).to(model.logit_scale.dtype)
    loss = ClipLoss()

    def forward() -> Tensor:
        with autocast(precision.replace("true", "mixed"), device):
            image, text, scale = model(pixels, tokens)
            return loss(image, text, scale)

    named = list(model.named_parameters())
    plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    known = {id(p) for p in plain}
    groups = [
        {"params": plain, "weight_decay": 0.0},
        {"params": [p for _, p in named if id(p) not in known], "weight_decay": 0.2},
    ]
    return forward, torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)


def ours(model: CLIP, size: int, precision: str, device: str = "cpu") -> tuple[Step, torch.optim.Optimizer]:
    images, tokens = (x.to(device) for x in batch(size, model.image_size))
    model.to(memory_format=torch.channels_last)
    loss = ContrastiveLoss()

    def forward() -> Tensor:
        with autocast(precision, device):
            image, text = features(model, images, tokens, dtype=tower_dtype(precision))
            return loss(image, text, model.logit_scale.exp())

    return forward, adamw(model)


class Whole(nn.Module):
    """Both towers and the loss as one module, for DDP to wrap."""

    def __init__(self, model: CLIP, loss: nn.Module, parts: int = 1) -> None:
        super().__init__()
        self.model, self.loss, self.parts = model, loss, parts

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        kept = kept_patches(self.model, torch.arange(len(images), device=images.device), images)
        image, text = features(self.model, images, tokens, parts=self.parts, kept=kept)
        return self.loss(image, text, self.model.logit_scale.exp())


def whole(forward: Step, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    forward().backward()
    optimizer.step()


def gradient(forward: Step, model: nn.Module, rename: Callable[[str], str] = str) -> tuple[float, dict[str, Tensor]]:
    """The loss, and the gradient of each parameter, under our names."""
    loss = forward()
    loss.backward()
    found = {rename(name): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), found


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """|g − g'| / |g'| over all parameters at once."""
    assert one.keys() == other.keys(), set(one) ^ set(other)
    gap = sum(float((one[name] - g).double().square().sum()) for name, g in other.items())
    return (gap / sum(float(g.double().square().sum()) for g in other.values())) ** 0.5


def pair(name: str) -> tuple[CLIP, nn.Module]:
    """Our model and open_clip's, with the same random weights, from a seed."""
    peer = peer_package()
    torch.manual_seed(0)
    model = peer.create_model(NAMES[name], precision="fp32", force_quick_gelu=True)
    mine = diptych.create_model(name)
    mine.load_state_dict(from_open_clip(model.state_dict()).state_dict())
    return mine.train(), model.train()


def our_step(name: str, size: int, precision: str, keep: bool = True) -> Actions:
    """Runs in our process."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    return {"step": partial(whole, *ours(diptych.create_model(name).train(), size, precision))}


def their_step(name: str, size: int, precision: str, keep: bool = False) -> Actions:
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    model = peer_package().create_model(NAMES[name], precision="fp32", force_quick_gelu=True)
    return {"step": partial(whole, *theirs(model.train(), size, precision))}


def imports() -> None:
    """The imports of either contender, before it makes a model."""
    peer_package()
    import open_clip.loss  # noqa: F401


def necessary(model: CLIP, size: int) -> float:
    """Operations that a step can't avoid: our own forward pass times three."""
    images, tokens = batch(size, model.image_size)
    device = model.logit_scale.device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features(model, images.to(device), tokens.to(device))
    return 3.0 * counter.get_total_flops()


def product(
    precision: str, side: int = 2048, device: str = "cpu", times: int = 1
) -> tuple[Callable[[], object], float]:
    """A matrix product, repeated `times`, and its operations."""
    x = torch.randn(side, side, dtype=torch.float32 if precision == "fp32" else torch.bfloat16, device=device)
    return (lambda: [x @ x for _ in range(times)]), times * 2.0 * side**3


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3g} s ({min(seconds):.3g}–{max(seconds):.3g})"


def exact(name: str, size: int = 2) -> tuple[float, float]:
    """Differences of loss and gradient in float64, without fp32 rounding. On a batch norm of few values fp32 rounding
    grows with depth, so a ResNet's fp32 gradients say little."""
    mine, model = (each.double() for each in pair(name))
    left, right = ours(mine, size, "64"), theirs(model, size, "64")  # type: ignore[arg-type]
    (loss, gradients), (their_loss, their_gradients) = gradient(left[0], mine), gradient(right[0], model, to_ours)
    return abs(loss - their_loss) / their_loss, apart(gradients, their_gradients)


def compare(name: str, size: int, precision: str, rounds: int) -> None:
    off = exact(name)
    mine, model = pair(name)
    left, right = ours(mine, size, precision), theirs(model, size, precision)
    found = gradient(left[0], mine), gradient(right[0], model, to_ours)
    single = gradient(ours(mine, size, "fp32")[0], mine) if precision != "fp32" else None
    print(f"\n{name}, batch {size}, {precision}: loss {found[0][0]:.6f}, open_clip's {found[1][0]:.6f}")
    print(f"in float64 the losses are {off[0]:.1e} apart, the gradients {off[1]:.1e}", end="; ")
    if single is None:
        print(f"in fp32 the gradients {apart(found[0][1], found[1][1]):.1e}")
    else:
        print(f"from fp32's gradient: ours {apart(found[0][1], single[1]):.1e}", end=", ")
        print(f"open_clip's {apart(found[1][1], single[1]):.1e}")
    need = necessary(mine, size)
    del mine, model, left, right, found, single
    multiply, operations = product(precision, times=10)  # one product would be timed on threads that just woke up
    multiply()
    with (
        Contender(imports, our_step, name, size, precision) as one,
        Contender(imports, their_step, name, size, precision) as other,
    ):
        asked = {"ours": partial(one.seconds, "step"), "open_clip": partial(other.seconds, "step")}
        seconds = alternating({**asked, "product": partial(timed, multiply)}, rounds)
        memory = one.memory(), other.memory()
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["open_clip"], strict=True)]
    best = operations / statistics.median(seconds["product"])
    share = {who: need / statistics.median(seconds[who]) / best for who in asked}
    print(f"a step: ours {spread(seconds['ours'])}, open_clip's {spread(seconds['open_clip'])}")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    print(f"share of {best / 1e9:.0f} GFLOP/s: ours {share['ours']:.0%}, open_clip {share['open_clip']:.0%}")
    print(f"memory: {memory[0] / 1e9:.2f} GB of {memory[1] / 1e9:.2f}, {memory[0] / memory[1]:.2f}", flush=True)


def arguments(size: int, precisions: tuple[str, ...]) -> argparse.Namespace:
    """Parses the command line of a benchmark of models, and sets the threads. size: the default batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["vit_b32"], choices=[*NAMES, []])
    parser.add_argument("--batch", type=int, default=size)
    parser.add_argument("--precision", choices=precisions, default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def main() -> None:
    given = arguments(32, ("fp32", "bf16-mixed", "bf16-true"))
    peer = peer_package()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, open_clip {peer.__version__}")
    for name in given.models:
        compare(name, given.batch, given.precision, given.rounds)


if __name__ == "__main__":
    main()
