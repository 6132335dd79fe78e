"""Pictures and captions per second in inference, ours and open_clip's, in one run.

python benchmarks/embed.py [MODEL …] [--precision fp32|bf16-mixed] [--batch 64] [--threads 2] [--rounds 5]

Both have the same weights, pictures, and captions of 5 to 34 tokens, and run in eval mode without autograd.
open_clip's texts have 77 tokens, as its tokenizer returns them. The features are compared before anything is timed.
Each runs in its own process, in turns. Prints the median and the spread of the rounds' ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from contender import Actions, Contender
from step import arguments, autocast, batch, imports, pair, peer_package
from torch import Tensor

from diptych.base.allocator import keep_freed_memory
from diptych.base.batch import normalise
from diptych.towers.clip import OPENAI_MEAN, OPENAI_STD


def furthest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def encoders(mine: bool, name: str, size: int, precision: str) -> dict[str, Callable[[], Tensor]]:
    """The image and the text encoder of a model, applied to the batch."""
    both = pair(name)
    model = both[0 if mine else 1].eval()
    if mine:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, tokens = batch(size, both[0].image_size)
    pixels = normalise(images, OPENAI_MEAN, OPENAI_STD)

    def run(encode: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(precision):
            return encode(given)

    return {
        "pictures": partial(run, model.encode_image, pixels),  # type: ignore[arg-type]
        "captions": partial(run, model.encode_text, tokens),  # type: ignore[arg-type]
    }


def asked(mine: bool, name: str, size: int, precision: str) -> Actions:
    """Runs in its own process; ours keeps freed memory, as embedding and evaluation do."""
    if mine:
        keep_freed_memory()
    return {**encoders(mine, name, size, precision)}


def compare(name: str, size: int, precision: str, rounds: int) -> None:
    left, right = (encoders(mine, name, size, precision) for mine in (True, False))
    apart = {what: furthest(left[what]().float(), right[what]().float()) for what in left}
    del left, right
    with (
        Contender(imports, asked, True, name, size, precision) as one,
        Contender(imports, asked, False, name, size, precision) as other,
    ):
        for what, off in apart.items():
            seconds = [(one.seconds(what), other.seconds(what)) for _ in range(rounds)]
            ratios = [slow / quick for quick, slow in seconds]
            mine, theirs = (size / statistics.median(each) for each in zip(*seconds, strict=True))
            print(f"{name:<9}{precision:<12}{what:<10}ours {mine:>7.1f}/s, open_clip {theirs:>7.1f}/s", end=", ")
            print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})", end=", ")
            print(f"features apart by {off:.1e}", flush=True)


def main() -> None:
    given = arguments(64, ("fp32", "bf16-mixed"))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, open_clip {peer_package().__version__}")
    for name in given.models:
        compare(name, given.batch, given.precision, given.rounds)


if __name__ == "__main__":
    main()
