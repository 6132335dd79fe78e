"""Text towers without weights: they tell which phrases of a fixed list a text is or contains.

They replace the text tower where an image tower learns to predict the phrases themselves: class names (a supervised
classifier) or n-grams (Visual N-Grams, Li et al. 2017). Each dimension of the space is one phrase, so an image's
features are the logits of the phrases, and the zero-shot classifier of a class name is that phrase's dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.towers.text import trim


class Indicator(nn.Module):
    """Base class of both.

    embed_dim: the image tower's, which must be the number of phrases
    tokenizer: texts -> int64 [N, L], the tokenizer that also makes the tower's input
    width: unused; the model's config file sets it for the Transformer in this place
    Raises UserError where embed_dim is not the number of phrases, and for a phrase that is listed twice.
    """

    def __init__(
        self,
        embed_dim: int,
        phrases: Sequence[str],
        tokenizer: Callable[[list[str]], Tensor],
        context_length: int = 77,
        vocab_size: int = 49408,
        vocabulary: str | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        if embed_dim != len(phrases):
            raise UserError(
                f"model.image.embed_dim={embed_dim}, but there are {len(phrases):,} phrases: set it to that number."
            )
        self.embed_dim, self.context_length = embed_dim, context_length
        self.vocab_size, self.vocabulary = vocab_size, vocabulary
        tokens = tokenizer(list(phrases))
        self.bodies = [tuple(row[1:end].tolist()) for row, end in zip(tokens, tokens.argmax(dim=1), strict=True)]
        self.places = {body: place for place, body in enumerate(self.bodies)}
        if len(self.places) < len(phrases):
            twice = next(p for p, body in enumerate(self.bodies) if self.places[body] != p)
            raise UserError(
                f"model.text.phrases has {phrases[twice]!r} twice, or another phrase has the same tokens: remove one."
            )

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [B, L] -> float32 [B, embed_dim], 1 at the text's phrases and 0 elsewhere"""
        tokens, ends = trim(tokens, self.context_length)
        found = torch.zeros(len(tokens), self.embed_dim)
        for row, (ids, end) in enumerate(zip(tokens.tolist(), ends.tolist(), strict=True)):
            found[row, self.phrases_of(tuple(ids[1:end]))] = 1.0
        return found.to(tokens.device)

    def phrases_of(self, body: tuple[int, ...]) -> list[int]:
        """The numbers of the phrases of one text."""
        raise NotImplementedError

    def knows(self, tokens: Tensor) -> Tensor:
        """int64 [N, L] -> bool [N], whether a text is or contains a phrase"""
        return Indicator.forward(self, tokens).any(dim=1)

    def layers_above(self) -> dict[str, int]:
        """Empty: there are no weights."""
        return {}


class LabelTower(Indicator):
    """Texts that are class names -> one-hot rows. Raises UserError for any other text."""

    reads_sentences = False

    def forward(self, tokens: Tensor) -> Tensor:
        rows = super().forward(tokens)
        if unknown := (~rows.any(dim=1)).nonzero()[:, 0].tolist():
            raise UserError(
                f"A text of {int(tokens[unknown[0]].argmax()) - 1} tokens is not one of the {self.embed_dim:,} class"
                " names in model.text.phrases: a supervised model encodes only the class names it was trained on,"
                " without a template."
            )
        return rows

    def phrases_of(self, body: tuple[int, ...]) -> list[int]:
        return [self.places[body]] if body in self.places else []


class NGramTower(Indicator):
    """In training, texts -> all their n-grams that are in the list; in eval mode only the longest ones, from left to
    right, as a class name means them: "cow face" is that bigram where the list has it, else "cow" and "face"."""

    def phrases_of(self, body: tuple[int, ...]) -> list[int]:
        longest = max(map(len, self.bodies))
        found, start = [], 0
        while start < len(body):
            here = [self.places.get(body[start:end]) for end in range(start + 1, min(start + longest, len(body)) + 1)]
            known = [(size, place) for size, place in enumerate(here, 1) if place is not None]
            if known and not self.training:
                found.append(known[-1][1])
                start += known[-1][0]
                continue
            found += [place for _, place in known]
            start += 1
        return found
