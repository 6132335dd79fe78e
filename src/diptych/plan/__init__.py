"""A training step on paper: what a rank sends, holds and waits for, from plain numbers.

counts: a model in numbers (a step without memory); layout: ranks, micro-batches and shards; wire: bytes sent; step:
seconds and bytes held. `benchmarks/parallel.py` compares bytes with counters.
"""
