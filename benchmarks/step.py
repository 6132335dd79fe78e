"""One training step beside open_clip's, in one run: time, memory, and the share of what the cores can multiply.

python benchmarks/step.py [MODEL …] [--precision fp32|bf16-mixed|bf16-true] [--batch 32] [--threads 2] [--rounds 5]
    [--parts]

Both start from the same weights, pictures and captions of 5 to 34 tokens, and their loss and gradients are compared
before anything is timed; in bf16, where equality has no meaning, each is compared with the fp32 gradient. A step is
forward, loss, backward and AdamW, as each trainer does it: open_clip with its defaults (texts of 77 places, pictures
as normalised floats), ours as `conf/optim/adamw.yaml` says, normalising bytes itself. Both bf16 precisions are beside
open_clip's autocast, the one that it has with fp32 weights. Rounds alternate; medians, and the spread from least to
most. Memory is that of a process of its own in which two steps are done, beyond what it had before the model was
made. Share of peak: the operations of our forward pass times three, over what a large matrix product of the same
precision does, timed in the same rounds. --parts takes our savings away one at a time.

open_clip comes from `.venv-peers` (`make peers`), onto the same torch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loss import status
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import diptych
from diptych.batch import normalise
from diptych.interop import from_open_clip
from diptych.interop.names import to_ours
from diptych.loss import ContrastiveLoss
from diptych.towers import text as text_tower
from diptych.towers import transformer
from diptych.towers.clip import CLIP, OPENAI_MEAN, OPENAI_STD
from diptych.towers.mlp import MLP
from diptych.training.accumulation import features
from diptych.training.optim import adamw
from diptych.training.precision import tower_dtype

HERE = Path(__file__).parent
NAMES = {"vit_b32": "ViT-B-32", "vit_b16": "ViT-B-16", "vit_l14": "ViT-L-14", "rn50": "RN50", "rn101": "RN101"}
SOS, EOS = 49406, 49407
Step = Callable[[], Tensor]


def peer_package() -> Any:
    """The peer's package, installed or from the peers' environment, behind everything of ours. Raises ImportError."""
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
        image, text = features(self.model, images, tokens, parts=self.parts)
        return self.loss(image, text, self.model.logit_scale.exp())


def whole(forward: Step, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    forward().backward()
    optimizer.step()


def gradient(forward: Step, model: nn.Module, rename: Callable[[str], str] = str) -> tuple[float, dict[str, Tensor]]:
    """The loss, and the gradient by parameter in our names."""
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
    """Our model and the peer's, of one start: random, with a seed."""
    peer = peer_package()
    torch.manual_seed(0)
    model = peer.create_model(NAMES[name], precision="fp32", force_quick_gelu=True)
    mine = diptych.create_model(name)
    mine.load_state_dict(from_open_clip(model.state_dict()).state_dict())
    return mine.train(), model.train()


def peak(name: str, who: str, size: int, precision: str) -> int:
    """Bytes that two steps take at most, with weights, gradients and the optimiser's state."""
    command = [sys.executable, __file__, name, "--batch", str(size), "--precision", precision, "--peak", who]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_peak(name: str, who: str, size: int, precision: str) -> None:
    peer = peer_package()
    import open_clip.loss  # noqa: F401  what is imported is no part of a step's memory

    before = status("VmRSS")
    if who == "ours":
        model: nn.Module = diptych.create_model(name).train()
        step = ours(model, size, precision)  # type: ignore[arg-type]
    else:
        model = peer.create_model(NAMES[name], precision="fp32", force_quick_gelu=True).train()
        step = theirs(model, size, precision)
    whole(*step)
    Path("/proc/self/clear_refs").write_text("5")
    whole(*step)
    print(status("VmHWM") - before)


def necessary(model: CLIP, size: int) -> float:
    """Operations of a step that no arithmetic identity spares us: our own forward pass times three."""
    images, tokens = batch(size, model.image_size)
    device = model.logit_scale.device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features(model, images.to(device), tokens.to(device))
    return 3.0 * counter.get_total_flops()


def product(precision: str, side: int = 2048, device: str = "cpu") -> tuple[Callable[[], Tensor], float]:
    x = torch.randn(side, side, dtype=torch.float32 if precision == "fp32" else torch.bfloat16, device=device)
    return (lambda: x @ x), 2.0 * side**3


def timed(action: Callable[[], object]) -> float:
    """Seconds, with all that a GPU was asked for before and by it."""
    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def alternating(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, round by round."""
    seconds: dict[str, list[float]] = {who: [] for who in actions}
    for _ in range(rounds):
        for who, action in actions.items():
            seconds[who].append(timed(action))
    return seconds


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3g} s ({min(seconds):.3g}–{max(seconds):.3g})"


def exact(name: str, size: int = 2) -> tuple[float, float]:
    """How far loss and gradient are apart in float64: what is left is mathematics. On a batch norm's few numbers fp32
    rounding grows along the depth, so a ResNet's fp32 gradients say little."""
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
    multiply, operations = product(precision)
    steps: dict[str, Callable[[], object]] = {
        "ours": partial(whole, *left),
        "open_clip": partial(whole, *right),
        "product": multiply,
    }
    for action in steps.values():
        action()
    seconds = alternating(steps, rounds)
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["open_clip"], strict=True)]
    best = operations / statistics.median(seconds["product"])
    need = necessary(mine, size)
    share = {who: need / statistics.median(seconds[who]) / best for who in ("ours", "open_clip")}
    print(f"a step: ours {spread(seconds['ours'])}, open_clip's {spread(seconds['open_clip'])}")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    print(f"share of {best / 1e9:.0f} GFLOP/s: ours {share['ours']:.0%}, open_clip {share['open_clip']:.0%}")
    memory = [peak(name, who, size, precision) for who in ("ours", "open_clip")]
    print(f"memory: {memory[0] / 1e9:.2f} GB of {memory[1] / 1e9:.2f}, {memory[0] / memory[1]:.2f}", flush=True)


@contextmanager
def set_to(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def padded(self: text_tower.TextTransformer, tokens: Tensor) -> Tensor:
    """All places of all captions."""
    x = self.token_embedding(tokens) + self.positional_embedding
    last = self.transformer(x, read=tokens.argmax(dim=-1))
    return self.ln_final(last) @ self.text_projection


def whole_last_block(self: transformer.Transformer, x: Tensor, read: Tensor | None = None) -> Tensor:
    """Every place of the last block is computed, and one read."""
    x = self.resblocks(x)
    return x if read is None else transformer.pick(x, read)[:, 0]


def without() -> dict[str, Callable[[], AbstractContextManager]]:
    """Our savings, each as what takes it away."""
    return {
        "captions without their padding": partial(set_to, text_tower.TextTransformer, "forward", padded),
        "of these, cut in two parts": partial(set_to, text_tower, "PARTS", 1),
        "last block for one place": partial(set_to, transformer.Transformer, "forward", whole_last_block),
        "attention written out": partial(set_to, transformer, "is_written_out", lambda query: False),
        "MLP's activation made again": partial(set_to, MLP, "forward", nn.Sequential.forward),
        "QuickGELU as one silu": partial(
            set_to, transformer.QuickGELU, "forward", lambda self, x: x * torch.sigmoid(1.702 * x)
        ),
    }


def parts(name: str, size: int, precision: str, rounds: int) -> None:
    """Each saving alone: the step without it over the step with all, and how far that moves the gradient."""
    torch.manual_seed(0)
    model = diptych.create_model(name).train()
    step = ours(model, size, precision)
    untouched, moved = gradient(step[0], model)[1], {}
    for title, removed in without().items():  # before any step moves the weights
        with removed():
            moved[title] = apart(gradient(step[0], model)[1], untouched)
    print(f"\n{name}, batch {size}, {precision}: a step without one of ours, over one with all of them")
    for title, removed in without().items():
        ratios = []
        for _ in range(rounds):
            with removed():
                slow = timed(partial(whole, *step))
            ratios.append(slow / timed(partial(whole, *step)))
        ends = f"{min(ratios):.2f}–{max(ratios):.2f}"
        print(f"{title:<30}{statistics.median(ratios):>7.2f} ({ends})   gradient {moved[title]:.1e}", flush=True)
    slow_adamw = torch.optim.AdamW(model.parameters(), lr=5e-4)
    ratios = []
    for _ in range(rounds):
        whole(*step)
        forward, _ = step
        forward().backward()
        rest = timed(slow_adamw.step) - timed(step[1].step)
        ratios.append(1 + rest / timed(partial(whole, *step)))
    print(f"{'fused AdamW':<30}{statistics.median(ratios):>7.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["vit_b32"], choices=[*NAMES, []])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16-mixed", "bf16-true"), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", action="store_true", help="each of our savings alone")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # the process that `peak` measures
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        measure_peak(given.models[0], given.peak, given.batch, given.precision)
        return
    peer = peer_package()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, open_clip {peer.__version__}")
    for name in given.models:
        if given.parts:
            parts(name, given.batch, given.precision, given.rounds)
        else:
            compare(name, given.batch, given.precision, given.rounds)


if __name__ == "__main__":
    main()
