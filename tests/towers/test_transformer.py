from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.towers.transformer import (
    PLAIN_ATTENTION_TOKENS,
    QuickGELU,
    Transformer,
    _plain_attention,
    is_written_out,
)


def peer_of(ours: Transformer, width: int, heads: int, activation: nn.Module) -> nn.ModuleList:
    """torch's own pre-norm encoder layers with our weights."""
    layers = nn.ModuleList()
    for block in ours.resblocks:
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, activation, batch_first=True, norm_first=True, dtype=torch.float64
        )
        weights = block.state_dict()
        names = {"attn.": "self_attn.", "mlp.c_fc.": "linear1.", "mlp.c_proj.": "linear2."}
        names |= {"ln_1.": "norm1.", "ln_2.": "norm2."}
        for mine, its in names.items():
            weights = {k.replace(mine, its) if k.startswith(mine) else k: v for k, v in weights.items()}
        layer.load_state_dict(weights)
        layers.append(layer)
    return layers


def run_peer(layers: nn.ModuleList, x: Tensor, causal: bool) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype) if causal else None
    for layer in layers:
        x = layer(x, src_mask=mask)
    return x


@pytest.mark.parametrize("length", [5, PLAIN_ATTENTION_TOKENS + 5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", [QuickGELU(), nn.GELU()])
def test_values_and_gradients_equal_torchs_layers(length: int, causal: bool, activation: nn.Module) -> None:
    torch.manual_seed(0)
    ours = Transformer(width=24, layers=2, heads=3, causal=causal, activation=activation).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs: Any = peer_of(ours, 24, 3, activation)
    x = torch.randn(2, length, 24, dtype=torch.float64)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = ours(mine), run_peer(theirs, other, causal)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-9)
    blocks: Any = ours.resblocks
    for block, layer in zip(blocks, theirs, strict=True):
        pairs = [
            (block.attn.in_proj_weight, layer.self_attn.in_proj_weight),
            (block.attn.in_proj_bias, layer.self_attn.in_proj_bias),
            (block.mlp.c_proj.weight, layer.linear2.weight),
            (block.ln_1.bias, layer.norm1.bias),
        ]
        for parameter, peer in pairs:
            torch.testing.assert_close(parameter.grad, peer.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_under_autocast_softmax_has_float32s_statistics_and_16_bits_to_keep(causal: bool) -> None:
    """A row of 200 equal scores sums to 1 within one rounding, which sums in bfloat16 would miss by far."""
    query = torch.ones(1, 1, 200, 8, dtype=torch.bfloat16)
    value = torch.ones_like(query).requires_grad_()
    assert is_written_out(query)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = _plain_attention(query, query, value, causal)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), torch.ones(1, 1, 200, 8), rtol=2**-7, atol=0)
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16):
        _plain_attention(query.clone().requires_grad_(), query, value, causal)
    assert {x.dtype for x in kept if x.is_floating_point()} == {torch.bfloat16}


def test_quick_gelu_is_its_formula() -> None:
    x = torch.linspace(-30, 30, 1001, dtype=torch.float64)
    torch.testing.assert_close(QuickGELU()(x), x * torch.sigmoid(1.702 * x), rtol=1e-12, atol=1e-12)


def test_initial_weights_have_openais_spread() -> None:
    torch.manual_seed(0)
    block: Any = Transformer(width=128, layers=8, heads=4, causal=True).resblocks[3]
    assert block.attn.in_proj_weight.std().item() == pytest.approx(128**-0.5, rel=0.03)
    assert block.attn.out_proj.weight.std().item() == pytest.approx(128**-0.5 / 4, rel=0.03)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(128**-0.5 / 4, rel=0.03)
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(256**-0.5, rel=0.03)
    assert not block.attn.in_proj_bias.any()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UserError, match="24 can't be shared by 5 heads"):
        Transformer(width=24, layers=1, heads=5, causal=False)
