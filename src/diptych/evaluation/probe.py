"""Classifiers from labelled pictures on frozen features. Pure: tensors in, numbers out.

The linear probe is L2-regularised multinomial logistic regression (CLIP paper, appendix A.3). Its objective is
scikit-learn's `LogisticRegression(C=c)`:
    sum of cross-entropies + |W|² / (2 c), the intercept free.
From a few pictures a class there are three: a probe that begins at the zero-shot classifier, a cache, and ridge. Each
has one setting, chosen once on the embedded pairs' validation set and the same for all numbers of shots and all sets:
no shot is spent on tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from diptych.base.errors import UserError
from diptych.evaluation.features import similarity, unit

LOW, HIGH, A_DECADE = -6, 6, 8  # the paper's sweep: 96 steps between 1e-6 and 1e6, eight a decade
START = range(LOW * A_DECADE, HIGH * A_DECADE + 1, 2 * A_DECADE)  # its seven first points, two decades apart

SHOTS_C = 100.0  # inverse regularisation towards the zero-shot classifier
ALPHA, BETA = 3.0, 5.5  # the cache's weight, and its sharpness, which is Tip-Adapter's
RIDGE = 0.1


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


def knn(
    train: Tensor, train_labels: Tensor, images: Tensor, classes: int, k: int = 20, temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:  # fmt: skip
    """train [M, D], train_labels int64 [M], images [N, D] -> votes float32 [N, C] of the min(k, M) nearest, each
    weighted by exp(cosine / temperature) (Wu et al. 2018; the protocol of DINO, Caron et al. 2021, with k = 20).
    Memory: `chunk` × M. Raises UserError for features that are not finite."""
    train, images = unit(train, "training features"), unit(images, "image features")
    votes = []
    for part in images.split(chunk):
        near = similarity(part, train).topk(min(k, len(train)), dim=1)
        weights = ((near.values - near.values[:, :1]) / temperature).exp()  # less the greatest: a common factor
        votes.append(torch.zeros(len(part), classes).scatter_add_(1, train_labels[near.indices], weights))
    return torch.cat(votes)


def draw_shots(labels: Tensor, k: int, seed: int) -> Tensor:
    """labels int64 [N] -> the numbers of k pictures of each class, of all where it has fewer, int64 [M]."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    starts = torch.searchsorted(shuffled[by_class], shuffled[by_class])
    place = torch.arange(len(labels)) - starts
    return order[by_class[place < k]]


def probe_from_zero_shot(shots: Tensor, labels: Tensor, classifier: Tensor, scale: float, images: Tensor) -> Tensor:
    """shots [M, D], labels int64 [M], classifier [C, D], images [N, D], all of unit length -> scores [N, C] of
    logistic regression whose weights are drawn to the zero-shot classifier's, not to 0: a probe that begins at
    zero needs some four pictures a class to reach zero-shot (CLIP paper, section 3.1.5, figure 6)."""
    known = scale * similarity(shots, classifier)
    learned = fit_logistic(shots, labels, len(classifier), SHOTS_C, most=200, known=known)
    return scale * similarity(images, classifier) + learned.scores(images)


def cache_scores(shots: Tensor, labels: Tensor, classifier: Tensor, scale: float, images: Tensor) -> Tensor:
    """As above -> Tip-Adapter's scores without training (Zhang et al. 2022, section 3.2): zero-shot logits, and each
    shot's vote for its class, exp(-beta (1 - cosine))."""
    votes = (-BETA * (1 - similarity(images, shots))).exp() @ one_hot(labels, len(classifier)).to(images.dtype)
    return scale * similarity(images, classifier) + ALPHA * votes


def ridge_scores(shots: Tensor, labels: Tensor, classifier: Tensor, scale: float, images: Tensor) -> Tensor:
    """As above -> scores of least squares to one-hot targets with an L2 penalty, in closed form, from the shots
    alone: in the space of the shots where they are fewer than dimensions, which is the same solution."""
    del scale
    targets, mean = one_hot(labels, len(classifier)).double(), shots.double().mean(dim=0)
    x, new = shots.double() - mean, images.double() - mean
    if len(x) <= x.shape[1]:
        weights = x.T @ torch.linalg.solve(x @ x.T + RIDGE * torch.eye(len(x)).double(), targets)
    else:
        weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]).double(), x.T @ targets)
    return (new @ weights).float()


FEW_SHOT = {"linear_probe": probe_from_zero_shot, "cache": cache_scores, "ridge": ridge_scores}
