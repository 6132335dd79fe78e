"""Global random generators go on from a checkpoint as if nothing had happened."""

from __future__ import annotations

import io
import random

import numpy as np
import torch

from diptych.training.callbacks.generators import restore, states


def draws() -> list[float]:
    return [torch.rand(()).item(), torch.randn(()).item(), random.gauss(0, 1), float(np.random.normal())]


def test_every_generator_draws_on() -> None:
    draws()  # half a pair of normal numbers is kept by Python's and NumPy's
    file = io.BytesIO()
    torch.save(states(torch.device("cpu")), file)
    expected = [draws(), draws()]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert draws() != expected[0]
    file.seek(0)
    restore(torch.load(file, weights_only=True), torch.device("cpu"))
    assert [draws(), draws()] == expected
