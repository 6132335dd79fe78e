"""Each of our optimisations: the time of a training step without it, relative to one with all, in alternating rounds.

python benchmarks/savings.py [MODEL …] [--precision fp32|bf16-mixed|bf16-true] [--batch 32] [--threads 2] [--rounds 5]

A step is that of `step.py`. An optimisation is removed by using the longer computation instead. Each row has the
ratio and the change of the gradient, |g − g'| / |g'| over all parameters. What the C library does with freed memory
is a setting of the whole process, so two processes take turns for it. The last row is open_clip's step with and
without it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from contender import Contender, timed
from step import apart, arguments, gradient, imports, our_step, ours, their_step, whole
from torch import Tensor

import diptych
from diptych.base.allocator import keep_freed_memory
from diptych.towers import text as text_tower
from diptych.towers import transformer
from diptych.towers.transformer import MLP, _ActivatedLinear, scaled_linear


@contextmanager
def set_to(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def padded(self: text_tower.TextTransformer, tokens: Tensor) -> Tensor:
    """Computes all 77 positions of all captions."""
    x = self.token_embedding(tokens) + self.positional_embedding
    last = self.transformer(x, read=tokens.argmax(dim=-1))
    return self.ln_final(last) @ self.text_projection


def whole_last_block(self: transformer.Transformer, x: Tensor, read: Tensor | None = None) -> Tensor:
    """Computes every position of the last block, although only one is used."""
    x = self.resblocks(x)
    return x if read is None else transformer.pick(x, read)[:, 0]


def output_kept(self: MLP, x: Tensor) -> Tensor:
    """Stores both the input and the output of the activation for the backward pass."""
    rate = transformer.QuickGELU.silu_rate
    wide = scaled_linear(x, self.c_fc.weight, self.c_fc.bias * rate, rate)
    return scaled_linear(F.silu(wide), self.c_proj.weight, self.c_proj.bias, 1 / rate)


def unscaled(activation: Callable[[Tensor], Tensor]) -> Callable[[MLP, Tensor], Tensor]:
    """Scales inside the activation, in extra passes over memory."""
    return lambda self, x: _ActivatedLinear.apply(self.c_fc(x), self.c_proj.weight, self.c_proj.bias, activation, 1.0)


def without() -> dict[str, Callable[[], AbstractContextManager]]:
    """Our optimisations, each as a context that removes it."""
    quick = transformer.QuickGELU()
    return {
        "captions without their padding": partial(set_to, text_tower.TextTransformer, "forward", padded),
        "of these, cut in two parts": partial(set_to, text_tower, "PARTS", 1),
        "last block for one place": partial(set_to, transformer.Transformer, "forward", whole_last_block),
        "attention written out": partial(set_to, transformer, "is_written_out", lambda query: False),
        "MLP's activation made again": partial(set_to, MLP, "forward", output_kept),
        "QuickGELU's scalings as factors": partial(set_to, MLP, "forward", unscaled(quick)),
        "these, and it as one silu": partial(
            set_to, MLP, "forward", unscaled(lambda x: x * torch.sigmoid(quick.silu_rate * x))
        ),
    }


def compare(name: str, size: int, precision: str, rounds: int) -> None:
    """Times the step without each optimisation relative to the step with all, and compares the gradients."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = diptych.create_model(name).train()
    step = ours(model, size, precision)
    untouched, moved = gradient(step[0], model)[1], {}
    for title, removed in without().items():  # before any step changes the weights
        with removed():
            moved[title] = f"   gradient {apart(gradient(step[0], model)[1], untouched):.1e}"
    print(f"\n{name}, batch {size}, {precision}: a step without one of ours, over one with all of them")
    for title, removed in without().items():
        ratios = []
        for _ in range(rounds):
            with removed():
                slow = timed(partial(whole, *step))
            ratios.append(slow / timed(partial(whole, *step)))
        say(title, ratios, moved[title])
    slow_adamw = torch.optim.AdamW(model.parameters(), lr=5e-4)
    ratios = []
    for _ in range(rounds):
        whole(*step)
        forward, _ = step
        forward().backward()
        rest = timed(slow_adamw.step) - timed(step[1].step)
        ratios.append(1 + rest / timed(partial(whole, *step)))
    say("fused AdamW", ratios)
    del model, step, slow_adamw, untouched
    for title, make in (("freed memory kept", our_step), ("the same, in open_clip", their_step)):
        with (
            Contender(imports, make, name, size, precision, False) as left,
            Contender(imports, make, name, size, precision, True) as kept,
        ):
            ratios = [left.seconds("step") / kept.seconds("step") for _ in range(2 * rounds)]
            say(title, ratios, f"   held {kept.memory() / 1e9:.2f} GB, else {left.memory() / 1e9:.2f}")


def say(title: str, ratios: list[float], more: str = "") -> None:
    ends = f"{min(ratios):.2f}–{max(ratios):.2f}"
    print(f"{title:<32}{statistics.median(ratios):>6.2f} ({ends}){more}", flush=True)


def main() -> None:
    given = arguments(32, ("fp32", "bf16-mixed", "bf16-true"))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in given.models:
        compare(name, given.batch, given.precision, given.rounds)


if __name__ == "__main__":
    main()
