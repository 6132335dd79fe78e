"""A training step on paper: what a rank sends, holds and waits for, from plain numbers.

counting: what a model is in numbers (a forward pass without memory); layout: ranks, micro-batches and shards; wire:
bytes; memory; step: seconds. `benchmarks/parallel.py` holds bytes and memory to counters.
"""
