"""CoOp: a few learned vectors in the place of a template's words (Zhou et al. 2022, "Learning to Prompt for
Vision-Language Models", section 3.2, unified context), every weight of the model staying as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from diptych.base.errors import UserError
from diptych.evaluation.features import similarity, unit


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
                raise UserError(f"The context's loss is {loss.item()} at step {len(losses)}: lower its lr.")
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
        raise UserError(f"The words {start!r} and a class name melt into one token: start with whole words.")
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
