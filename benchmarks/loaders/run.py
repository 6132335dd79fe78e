"""Runs one loader in its own process and prints the measurements as a line of JSON. loader.py starts it."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/support"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests/peers"))

import torch

SKIP = 3  # batches before the steady rate: workers start together and make their first ones before it


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("setting")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--what", default="rate", choices=["rate", "shares", "difference", "index"])
    parser.add_argument("--began", type=float, default=time.time(), help="when the process was started")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="first step, for ours")
    parser.add_argument("--state", help="file of a saved state, for energon")
    parser.add_argument("--save-after", type=int, default=0, help="batches after which energon saves its state")
    return parser.parse_args()


def rate(module: object, args: argparse.Namespace) -> dict[str, float]:
    """Seconds to the first batch; images per second of CPU time over all, and of wall time at steady state."""
    ready = time.time() - args.began
    begin, count, seen = time.process_time(), 0, 0
    first = steady = last = 0.0
    for images, tokens in module.batches(args):  # type: ignore[attr-defined]
        assert len(images) == len(tokens)
        count, seen, last = count + 1, seen + len(images), time.time() - args.began
        first = first or last
        if count == SKIP:
            steady, before = last, seen
        if seen >= args.images:
            break
    found = {"imports": ready, "first": first, "images": seen, "cpu_rate": seen / (time.process_time() - begin)}
    if count > SKIP:
        found["wall_rate"] = (seen - before) / (last - steady)
    return found


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    module = importlib.import_module(f"{args.loader}_loader")
    found = rate(module, args) if args.what == "rate" else getattr(module, args.what)(args)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
