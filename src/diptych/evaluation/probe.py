"""The linear probe: L2-regularised multinomial logistic regression on frozen features (CLIP paper, appendix A.3).

Pure: tensors in, numbers out. The objective is scikit-learn's `LogisticRegression(C=c)`:
    sum of cross-entropies + |W|² / (2 c), the intercept free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from diptych.base.errors import UserError

LOW, HIGH, A_DECADE = -6, 6, 8  # the paper's sweep: 96 steps between 1e-6 and 1e6, eight a decade
START = range(LOW * A_DECADE, HIGH * A_DECADE + 1, 2 * A_DECADE)  # its seven first points, two decades apart


@dataclass(frozen=True)
class LinearProbe:
    """weight [C, D], bias [C]; c: inverse regularisation; converged: whether the gradient vanished in time;
    tried: c -> accuracy on the validation split, where c was searched"""

    weight: Tensor
    bias: Tensor
    c: float
    converged: bool
    tried: dict[float, float] = field(default_factory=dict)

    def scores(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, C]"""
        return features.to(self.weight) @ self.weight.T + self.bias


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    c: float,
    start: LinearProbe | None = None,
    most: int = 1000,
    known: Tensor | None = None,
) -> LinearProbe:
    """features [N, D], in whose type it is solved, labels int64 [N] -> the minimum, by L-BFGS with a strong Wolfe
    line search.

    start: a probe to begin from; most: iterations; known: logits [N, C] that are there already and are added to
    Raises UserError for features that are not finite.
    """
    if not features.isfinite().all():
        raise UserError("The features of a linear probe hold NaN or infinity: look at the model they are from.")
    shape = (classes, features.shape[1])
    weight = torch.zeros(shape, dtype=features.dtype) if start is None else start.weight.to(features.dtype, copy=True)
    bias = torch.zeros(classes, dtype=features.dtype) if start is None else start.bias.to(features.dtype, copy=True)
    weight.requires_grad_(True), bias.requires_grad_(True)
    count, more = len(labels), 0.0 if known is None else known.to(features.dtype)
    tolerance = 1e-7 if features.dtype == torch.float64 else 1e-5
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=most, max_eval=2 * most, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=tolerance, tolerance_change=1e-12,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        loss = cross_entropy(features @ weight.T + bias + more, labels) + weight.square().sum() / (2 * c * count)
        loss.backward()
        return loss

    solver.step(closure)
    closure()
    assert weight.grad is not None and bias.grad is not None
    largest = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    return LinearProbe(weight.detach(), bias.detach(), c, largest <= 10 * tolerance)


def search_c(accuracy: Callable[[float], float]) -> dict[float, float]:
    """The paper's search: the seven points two decades apart, then around the best with half the step, and again,
    down to an eighth of a decade. accuracy: c -> share right on a validation split. Returns what was tried."""
    tried: dict[int, float] = {place: accuracy(_c(place)) for place in START}
    step = A_DECADE
    while step >= 1:
        best = _best(tried)
        for place in (best - step, best + step):
            if START[0] <= place <= START[-1] and place not in tried:
                tried[place] = accuracy(_c(place))
        step //= 2
    return {_c(place): share for place, share in sorted(tried.items())}


def fit_probe(features: Tensor, labels: Tensor, classes: int, seed: int, held: float = 0.2) -> LinearProbe:
    """features [N, D], labels int64 [N] of the training split -> the probe of the paper's protocol: c chosen on a
    share `held` of the training pictures, drawn by seed, then fitted to all of them.

    No other split has a say: none is given. The search runs in float32 with few iterations, each fit from its
    neighbour's solution; the final fit in float64 to the end.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(held * len(labels)))
    valid, fitted = order[:cut], order[cut:]
    found: dict[float, LinearProbe] = {}

    def accuracy(c: float) -> float:
        near = min(found, key=lambda other: abs(math.log(other / c)), default=None)
        begin = None if near is None else found[near]
        found[c] = fit_logistic(features[fitted].float(), labels[fitted], classes, c, begin, most=100)
        return (found[c].scores(features[valid]).argmax(dim=1) == labels[valid]).double().mean().item()

    tried = search_c(accuracy)
    c = max(tried, key=lambda each: (tried[each], -each))  # of equals the most regularised
    final = fit_logistic(features.double(), labels, classes, c, found[c])
    return LinearProbe(final.weight, final.bias, c, final.converged, tried)


def columns(known: Sequence[str], asked: Sequence[str]) -> Tensor | None:
    """Class names a probe was fitted to, and those of a set -> int64 [C], the columns of its scores that the set asks
    about; None where it asks about a class that is not among them. A name that is there twice is the first."""
    places = {name: place for place, name in reversed(list(enumerate(known)))}
    return torch.tensor([places[name] for name in asked]) if set(asked) <= places.keys() else None


def _c(place: int) -> float:
    return 10 ** (place / A_DECADE)


def _best(tried: dict[int, float]) -> int:
    return max(tried, key=lambda place: (tried[place], -place))
