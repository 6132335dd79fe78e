"""Recall@k of 100,000 × 100,000 pairs: time, peak memory, and equality with one large product for a part of them.

.venv/bin/python benchmarks/retrieval.py [PAIRS]
"""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch.nn.functional import normalize

from diptych.evaluation.retrieval import recall

D, PART = 512, 4000


def brute_force(image: torch.Tensor, text: torch.Tensor, k: int) -> float:
    """Text to image, from all scores at once and a sort."""
    best = (text @ image.T).argsort(dim=1, descending=True, stable=True)[:, :k]
    return (best == torch.arange(len(text))[:, None]).any(dim=1).double().mean().item()


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    generator = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(pairs, D, generator=generator), dim=1)
    text = normalize(0.2 * image + 0.03 * torch.randn(pairs, D, generator=generator), dim=1)
    part = recall(image[:PART], text[:PART], torch.arange(PART))
    for k in (1, 5, 10):
        assert part["text_to_image"][f"R@{k}"] == brute_force(image[:PART], text[:PART], k)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    found = recall(image, text, torch.arange(pairs))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{pairs:,} × {pairs:,} pairs, D = {D}, {torch.get_num_threads()} threads: {seconds:.0f} s")
    print(f"peak memory of the process {peak / 2**20:.2f} GB (before: {before / 2**20:.2f})")
    print(f"R@1 {found['text_to_image']['R@1']:.4f}, median rank {found['median_rank']}")
    print(f"R@1, R@5 and R@10 of the first {PART:,} equal one product and a stable sort")


if __name__ == "__main__":
    main()
