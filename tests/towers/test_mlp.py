"""The MLP that makes its activation again gives what the plain one gives, and keeps less."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from diptych.towers.mlp import MLP
from diptych.towers.transformer import QuickGELU

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
