"""Pictures and captions a second in inference, ours beside open_clip's, in one run.

python benchmarks/embed.py [MODEL …] [--precision fp32|bf16-mixed] [--batch 64] [--threads 2] [--rounds 5]

Same weights, pictures, and captions of 5 to 34 tokens; features are compared before anything is timed. Both run in
eval mode without autograd; open_clip's texts have 77 places, as its tokenizer gives them. Rounds alternate; medians
of the rounds' ratios, and the spread.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from step import NAMES, autocast, batch, pair, peer_package, timed
from torch import Tensor

from diptych.batch import normalise


def furthest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compare(name: str, size: int, precision: str, rounds: int) -> None:
    mine, model = pair(name)
    mine.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval()
    images, tokens = batch(size, mine.image_size)
    pixels = normalise(images, mine.mean, mine.std)

    def run(encode: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(precision):
            return encode(given)

    ways: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "pictures": (partial(run, mine.encode_image, pixels), partial(run, model.encode_image, pixels)),  # type: ignore[operator]
        "captions": (partial(run, mine.encode_text, tokens), partial(run, model.encode_text, tokens)),  # type: ignore[operator]
    }
    for what, (ours, theirs) in ways.items():
        apart = furthest(ours().float(), theirs().float())
        seconds = [(timed(ours), timed(theirs)) for _ in range(rounds)]
        ratios = [slow / quick for quick, slow in seconds]
        a_second = [size / statistics.median(each) for each in zip(*seconds, strict=True)]
        print(
            f"{name:<9}{precision:<12}{what:<10}ours {a_second[0]:>7.1f}/s, open_clip {a_second[1]:>7.1f}/s, ratio"
            f" {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}), features apart by {apart:.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["vit_b32"], choices=[*NAMES, []])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16-mixed"), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, open_clip {peer_package().__version__}")
    for name in given.models:
        compare(name, given.batch, given.precision, given.rounds)


if __name__ == "__main__":
    main()
