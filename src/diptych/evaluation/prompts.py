"""Better prompts than a plain template, tuned on a split that no result is reported on: an ensemble that is searched,
and learned context.

The ensembles of the CLIP paper (section 3.1.4) were found by hand on ImageNet; here each step adds the template that
helps most. Context is CoOp's: a few learned vectors in the place of a template's words, and every weight of the model
as it is (Zhou et al. 2022, "Learning to Prompt for Vision-Language Models", section 3.2, unified context).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from diptych.base.errors import UserError
from diptych.evaluation.features import check_labels, similarity, unit


@dataclass(frozen=True)
class Search:
    """chosen: templates by number, in the order they were added; one that is added again weighs more.
    accuracy, loss: of the ensemble after each, on the tuning split. best: how many of them to take"""

    chosen: list[int]
    accuracy: list[float]
    loss: list[float]

    @property
    def best(self) -> int:
        """The shortest ensemble of the highest accuracy."""
        return 1 + self.accuracy.index(max(self.accuracy))


def ensemble(prompts: Tensor) -> Tensor:
    """prompts [T, C, D], unit rows -> classifier [C, D]: the mean over templates at unit length, as
    `zero_shot_classifier` takes it."""
    return unit(prompts.mean(dim=0), "class embeddings")


def greedy(images: Tensor, labels: Tensor, prompts: Tensor, scale: float, most: int) -> Search:
    """images [N, D], labels int64 [N], prompts [T, C, D] (each class in each template), scale: what the model
    multiplies cosines by -> at most `most` steps.

    A step takes the template whose ensemble is most often right, of equals the one of the least cross-entropy, then
    the first. Raises UserError for features that are not finite, and labels without a class.
    """
    images = unit(images, "image features")
    count, classes = prompts.shape[:2]
    check_labels(labels, len(images), classes)
    each = torch.stack([unit(prompt, f"text features of template {t}") for t, prompt in enumerate(prompts)])
    total = torch.zeros_like(each[0])
    search = Search([], [], [])
    for _ in range(most):
        tried = [_measure(images, labels, ensemble((total + each[t])[None]), scale) for t in range(count)]
        best = max(range(count), key=lambda t: (tried[t][0], -tried[t][1], -t))
        total = total + each[best]
        search.chosen.append(best)
        search.accuracy.append(tried[best][0])
        search.loss.append(tried[best][1])
    return search


def _measure(
    images: Tensor, labels: Tensor, classifier: Tensor, scale: float, chunk: int = 4096
) -> tuple[float, float]:
    """Top-1 and cross-entropy. Argmax takes the first of equals, as `classify` does."""
    right, loss = 0, 0.0
    for image, label in zip(images.split(chunk), labels.split(chunk), strict=True):
        scores = similarity(image, classifier)
        right += int((scores.argmax(dim=1) == label).sum())
        loss += cross_entropy(scale * scores, label, reduction="sum").item()
    return right / len(labels), loss / len(labels)


class ContextModel(Protocol):
    """A model whose text tower looks its words up in one embedding."""

    text: Any  # with `token_embedding`, an nn.Embedding

    def encode_text(self, tokens: Tensor) -> Tensor: ...  # int64 [B, L] -> [B, D]


@dataclass(frozen=True)
class Learned:
    """start: the words it began as; context: [M, W]; losses: of each step"""

    start: str
    context: Tensor
    losses: list[float]


def learn_context(
    model: ContextModel,
    tokenizer: Callable[[list[str]], Tensor],
    names: Sequence[str],
    images: Tensor,
    labels: Tensor,
    scale: float,
    start: str = "a photo of a",
    steps: int = 50,
    lr: float = 2e-3,
    batch_size: int = 256,
    seed: int = 0,
) -> Learned:
    """images [N, D], labels int64 [N] of the split to learn on, `names` of all C classes -> the context that begins
    as the words `start`, after `steps` of Adam on the cross-entropy of scale · cosine.

    Each step encodes all C classes: for a thousand, a pass of the text tower over a thousand captions and back.
    Raises UserError where the loss is not finite.
    """
    images = unit(images, "image features")
    tokens, size = _with_room(tokenizer, start, names)
    device = model.text.token_embedding.weight.device
    tokens, images, labels = tokens.to(device), images.to(device), labels.to(device)
    words = model.text.token_embedding.weight.detach()[tokens[0, 1 : 1 + size]]
    context = nn.Parameter(words.clone().float())
    optimizer = torch.optim.Adam([context], lr=lr)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    with _frozen(model):
        for _ in range(steps):
            drawn = torch.randperm(len(images), generator=generator)[:batch_size].to(device)
            with _in_place_of_words(model, context):
                classes = normalize(model.encode_text(tokens).float(), dim=1)
            loss = cross_entropy(scale * similarity(images[drawn], classes), labels[drawn])
            if not loss.isfinite():
                raise UserError(f"The context's loss is {loss.item()} at step {len(losses)}: lower task.context.lr.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return Learned(start, context.detach(), losses)


@torch.no_grad()
def context_classifier(
    model: ContextModel, tokenizer: Callable[[list[str]], Tensor], names: Sequence[str], learned: Learned
) -> Tensor:
    """The context before C names, of the classes it was learned on or of others -> float32 [C, D], unit rows."""
    tokens, _ = _with_room(tokenizer, learned.start, names)
    with _in_place_of_words(model, learned.context):
        return unit(model.encode_text(tokens.to(learned.context.device)), "class embeddings")


def _with_room(tokenizer: Callable[[list[str]], Tensor], start: str, names: Sequence[str]) -> tuple[Tensor, int]:
    """Tokens [C, L] of "start name.", and how many places behind [SOS] the words of `start` take."""
    alone = tokenizer([start])[0]
    size = int(alone.argmax()) - 1  # [EOS] has the highest id
    tokens = tokenizer([f"{start} {name}." for name in names])
    if not (tokens[:, 1 : 1 + size] == alone[1 : 1 + size]).all():
        raise UserError(f"The words {start!r} and a class name become one token: give whole words as the start.")
    return tokens, size


@contextmanager
def _in_place_of_words(model: ContextModel, context: Tensor) -> Iterator[None]:
    def put(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        rows = context.to(embedded.dtype).expand(len(embedded), -1, -1)
        return torch.cat([embedded[:, :1], rows, embedded[:, 1 + context.shape[0] :]], dim=1)

    handle = model.text.token_embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _frozen(model: ContextModel) -> Iterator[None]:
    """No gradient for the model's own weights."""
    trained = [weight for weight in model.text.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
