from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.base.errors import UserError
from diptych.towers.text import CBOW, TextTransformer

START, END = 98, 99


def captions(*words: list[int], length: int = 16) -> Tensor:
    rows = [[START, *row, END] for row in words]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


TOKENS = captions([5, 6, 7], [0, 0, 9, 0], [], [3] * 11)  # 0 is a word, too


def small_text(context_length: int = 16) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(6, 32, 2, context_length=context_length, vocab_size=100, heads=4).double()


def test_features_are_read_off_the_end_without_cutting_anything() -> None:
    tower = small_text()
    x = tower.token_embedding(TOKENS) + tower.positional_embedding
    x = F.layer_norm(tower.transformer(x), (32,), tower.ln_final.weight, tower.ln_final.bias)
    ends = [row.tolist().index(END) for row in TOKENS]
    expected = torch.stack([row[end] for row, end in zip(x, ends, strict=True)]) @ tower.text_projection
    torch.testing.assert_close(tower(TOKENS), expected, rtol=1e-10, atol=1e-10)
    parameters = list(tower.parameters())
    mine = torch.autograd.grad(tower(TOKENS).square().sum(), parameters)
    other = torch.autograd.grad(expected.square().sum(), parameters)
    for gradient, reference in zip(mine, other, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tower", [small_text(), CBOW(6, 32, context_length=16, vocab_size=100).double()])
def test_padding_and_company_change_nothing(tower: TextTransformer | CBOW) -> None:
    together = tower(TOKENS)
    for row, tokens in enumerate(TOKENS):
        alone = tokens[: tokens.tolist().index(END) + 1][None]
        longer = F.pad(alone, (0, 40))
        torch.testing.assert_close(tower(alone), together[row : row + 1], rtol=1e-10, atol=1e-12)
        assert torch.equal(tower(alone), tower(longer))


@pytest.mark.parametrize("tower", [small_text(12), CBOW(6, 32, context_length=12, vocab_size=100)])
def test_captions_beyond_the_context_are_refused(tower: TextTransformer | CBOW) -> None:
    with pytest.raises(UserError, match="13 tokens is longer than the text tower's context of 12"):
        tower(TOKENS)


def test_the_initial_spread_is_openais() -> None:
    torch.manual_seed(0)
    tower: Any = TextTransformer(embed_dim=256, width=256, layers=1)
    assert tower.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert tower.positional_embedding.std().item() == pytest.approx(0.01, rel=0.02)
    assert tower.text_projection.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert tower.transformer.resblocks[0].attn.heads == 4


def test_a_bag_of_words_is_the_mean_of_its_words_in_any_order() -> None:
    torch.manual_seed(0)
    tower = CBOW(6, 32, vocab_size=100).double()
    mean = tower.token_embedding.weight[[0, 0, 9, 0]].mean(0)
    expected = F.layer_norm(mean, (32,)) @ tower.text_projection
    torch.testing.assert_close(tower(captions([0, 0, 9, 0]))[0], expected)
    torch.testing.assert_close(tower(captions([0, 9, 0, 0]))[0], expected)
    assert not torch.allclose(tower(captions([0, 9, 9, 0]))[0], expected)


def test_a_caption_without_words_has_finite_features_and_gradients() -> None:
    tower = CBOW(6, 32, vocab_size=100)
    tower(captions([], [5])).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())
