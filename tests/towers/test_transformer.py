"""The blocks against torch's own layers; the MLP that computes its activation again against the plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from diptych.base.errors import UserError
from diptych.towers.transformer import (
    MLP,
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


ACTIVATIONS = [QuickGELU(), nn.GELU()]


def made(activation: nn.Module, dtype: torch.dtype = torch.float64, width: int = 8) -> tuple[MLP, Tensor]:
    torch.manual_seed(0)
    return MLP(width, activation).to(dtype), torch.randn(3, 5, width, dtype=dtype, requires_grad=True)


def gradients(mlp: nn.Module, x: Tensor, plain: bool, bf16: bool = False) -> tuple[Tensor, list[Tensor | None]]:
    mlp.zero_grad()
    x.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = nn.Sequential.forward(mlp, x) if plain else mlp(x)
    (out * torch.arange(x.shape[-1], device=x.device)).sum().backward()
    return out.detach(), [None if p.grad is None else p.grad.clone() for p in (x, *mlp.parameters())]


@pytest.mark.parametrize(("activation", "bf16"), [(QuickGELU(), False), (nn.GELU(), False), (nn.GELU(), True)])
def test_it_is_the_plain_one(activation: nn.Module, bf16: bool) -> None:
    """To the bit where nothing is scaled; how QuickGELU's factors round in bfloat16 is the next test's."""
    mlp, x = made(activation, torch.float32 if bf16 else torch.float64)
    (out, found), (plain_out, plain) = (gradients(mlp, x, plain, bf16) for plain in (False, True))
    assert out.dtype == plain_out.dtype == (torch.bfloat16 if bf16 else torch.float64)
    near = {"rtol": 2e-2 if bf16 else 1e-12, "atol": 1e-3 if bf16 else 1e-12}
    if isinstance(activation, QuickGELU):
        torch.testing.assert_close(out, plain_out, **near)
    else:
        assert torch.equal(out, plain_out)
    for ours, theirs in zip(found, plain, strict=True):
        assert ours is not None and theirs is not None and ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, **near)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_in_bfloat16_it_is_no_further_from_float64_than_the_plain_one(activation: nn.Module) -> None:
    mlp, x = made(activation, torch.float32, width=64)
    (out, found), (plain_out, plain) = (gradients(mlp, x, plain, bf16=True) for plain in (False, True))
    assert out.dtype == plain_out.dtype == torch.bfloat16
    exact_out, exact = gradients(mlp.double(), x.detach().double().requires_grad_(), plain=True)
    for ours, theirs, right in zip((out, *found), (plain_out, *plain), (exact_out, *exact), strict=True):
        assert ours is not None and theirs is not None and right is not None and ours.dtype == theirs.dtype
        off, plain_off = ((each.double() - right).norm() / right.norm() for each in (ours, theirs))
        assert off < 1.15 * plain_off + 1e-6 and off < 1e-2, (off, plain_off)


@pytest.mark.parametrize("frozen", ["c_proj.weight", "c_proj.bias", "c_fc.weight", "all"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    mlp, x = made(QuickGELU())
    for name, parameter in mlp.named_parameters():
        parameter.requires_grad_(frozen not in ("all", name))
    x.requires_grad_(frozen == "all")
    (_, found), (_, plain) = (gradients(mlp, x, plain) for plain in (False, True))
    for ours, theirs in zip(found, plain, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs)


def test_it_keeps_the_activations_input_and_not_its_output() -> None:
    """Of the tensors as wide as the middle layer the plain one keeps two, this one one."""

    def kept(plain: bool) -> int:
        mlp, x = made(QuickGELU())
        found: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.shape[-1] == 32 and tensor.ndim > 1 and not isinstance(tensor, nn.Parameter):
                found[tensor.data_ptr()] = tensor.numel()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            out = nn.Sequential.forward(mlp, x) if plain else mlp(x)
        del out
        return sum(size for size in found.values() if size == 3 * 5 * 32)

    assert (kept(plain=True), kept(plain=False)) == (2 * 3 * 5 * 32, 3 * 5 * 32)


def test_without_autograd_and_in_a_checkpoint_it_is_the_same() -> None:
    mlp, x = made(QuickGELU())
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), nn.Sequential.forward(mlp, x), rtol=1e-12, atol=1e-12)
        unscaled, given = made(nn.GELU())
        assert torch.equal(unscaled(given), nn.Sequential.forward(unscaled, given))
    mlp.zero_grad()
    out = torch.utils.checkpoint.checkpoint(mlp, x, use_reentrant=False)
    out.square().sum().backward()
    again = [p.grad.clone() for p in mlp.parameters()]
    mlp.zero_grad()
    mlp(x).square().sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(again, mlp.parameters(), strict=True))


def test_a_counter_of_operations_goes_through_it() -> None:
    """Its hooks on every module meet the activation in the backward pass, too."""
    mlp, x = made(QuickGELU())
    with FlopCounterMode(display=False) as counter:
        mlp(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * (2 * 15 * 8 * 32)
