"""Random numbers from a seed and a name, the same on every machine, rank and worker: SplitMix64, vectorised.

Generators of numpy and torch have state and may change between versions. A hash of (seed, epoch, sample) doesn't.
Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014), figure 16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


_MASK = (1 << 64) - 1


def mix_one(*parts: int) -> int:
    """`mix` of plain integers, without the cost of calling numpy."""
    state = 0
    for part in parts:
        state = ((state ^ (part & _MASK)) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def uniform_one(*parts: int) -> float:
    """`uniform` of plain integers."""
    return (mix_one(*parts) >> 11) * 2.0**-53


def mix(*parts: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """Hash integers, or broadcastable arrays of them, to uniform 64-bit numbers. The order of the parts matters."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ np.asarray(part).astype(np.uint64)) + _GAMMA
            state = (state ^ (state >> np.uint64(30))) * _MIX_1
            state = (state ^ (state >> np.uint64(27))) * _MIX_2
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*parts: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """Like `mix`, as numbers in [0, 1) with 53 bits."""
    return (mix(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(size: int, *parts: int) -> NDArray[np.int64]:
    """A permutation of range(size) that depends only on `parts`."""
    return np.argsort(mix(*parts, np.arange(size)), kind="stable")
