"""The text towers of CLIP: a causal Transformer (paper, section 2.4) and a bag of words (figure 3: "CBOW").

Both take the tokenizer's output: [SOS], the words, [EOS], then padding. [EOS] has the vocabulary's highest id, so the
first maximum of a row is its place. All that follows it is padding; the padding's id, 0, is also the id of "!".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.base.quantities import Count
from diptych.towers.layers import layers_above
from diptych.towers.transformer import Transformer

# Number of parts of a batch of captions, and the fewest captions in a part; see TextTransformer.forward. With fewer,
# a GPU loses more time by launching twice the kernels than it gains by less padding.
PARTS, MIN_PART, MIN_PART_GPU = 2, 32, 512


def trim(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    """Tokens [B, L] without the columns that are padding in every row, and the place of each [EOS], [B].

    Exact for towers in which no place depends on later ones. Raises UserError if more than `context_length` columns
    are left.
    """
    ends = tokens.argmax(dim=-1)
    tokens = tokens[:, : int(ends.max()) + 1]
    if tokens.shape[1] > context_length:
        raise UserError(
            f"A caption of {tokens.shape[1]} tokens is longer than the text tower's context of "
            f"{context_length}: give the tokenizer the same context_length."
        )
    return tokens, ends


def part_of(captions: int, device: str) -> int:
    """The number of captions of a batch that go through the blocks at a time."""
    return max(MIN_PART if device == "cpu" else MIN_PART_GPU, -(-captions // PARTS))


def _length(ends: Tensor, tokens: Tensor) -> int:
    """The length of the longest caption, for sorted ends."""
    return tokens.shape[1] if len(ends) == len(tokens) else int(ends[-1]) + 1  # without asking the GPU if possible


class TextTransformer(nn.Module):
    """Tokens int64 [B, L] -> features [B, embed_dim]: the output at [EOS], layer-normed and projected.

    L is at most context_length after padding is cut; shorter input gives the same features at less cost.
    heads: None for one head per 64 channels, as in all of the paper's models
    activation: a module such as `torch.nn.GELU()`; None for OpenAI's QuickGELU
    vocabulary: of the tokens, see `CLIP.vocabulary`

    Parameters are named as OpenAI's are, without a prefix.
    """

    def __init__(
        self,
        embed_dim: Count,
        width: Count,
        layers: Count,
        context_length: Count = 77,
        vocab_size: Count = 49408,
        heads: Count | None = None,
        activation: nn.Module | None = None,
        vocabulary: str | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.context_length = context_length
        self.vocab_size, self.vocabulary = vocab_size, vocabulary
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(
            width, layers, heads or max(1, width // 64), causal=True, activation=activation
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens, ends = trim(tokens, self.context_length)
        # Sorted by length and cut part by part, short captions are together and little padding is left.
        ends, order = ends.sort(stable=True)
        x = self.token_embedding(tokens[order]) + self.positional_embedding[: tokens.shape[1]]  # B×L×W
        size = part_of(len(tokens), x.device.type)
        last = [
            self.transformer(part[:, : _length(places, tokens)], read=places)
            for part, places in zip(x.split(size), ends.split(size), strict=True)
        ]
        features = self.ln_final(torch.cat(last)) @ self.text_projection
        return features[order.argsort()]

    def layers_above(self) -> dict[str, int]:
        """Every parameter's name -> the layers above it; see `layers.layers_above`."""
        return layers_above(self, list(self.transformer.resblocks), ("ln_final", "text_projection"))


class CBOW(nn.Module):
    """Tokens int64 [B, L] -> features [B, embed_dim]: words' embeddings averaged, layer-normed and projected.

    The mean is over the tokens between [SOS] and [EOS]; a caption without words is the zero vector before the norm.
    Order and position have no effect, so `context_length` only limits the input's length, as in the Transformer.
    """

    def __init__(
        self,
        embed_dim: Count,
        width: Count,
        context_length: Count = 77,
        vocab_size: Count = 49408,
        vocabulary: str | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.context_length = context_length
        self.vocab_size, self.vocabulary = vocab_size, vocabulary
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens, ends = trim(tokens, self.context_length)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        is_word = (places > 0) & (places < ends[:, None])  # B×L
        summed = (self.token_embedding(tokens) * is_word[..., None]).sum(1)
        mean = summed / is_word.sum(1, keepdim=True).clamp(min=1)
        return self.ln_final(mean) @ self.text_projection

    def layers_above(self) -> dict[str, int]:
        """Every parameter's name -> the number of layers above it; only the embedding is below the head."""
        return layers_above(self, [], ("ln_final", "text_projection"))
