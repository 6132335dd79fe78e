from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.towers.layers import resize_positions
from diptych.towers.vit import AttentionPool, VisionTransformer


def small_vit(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "image_size": 16,
        "patch_size": 4,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "embed_dim": 10,
    }
    return VisionTransformer(**(given | changes)).double()


def written_out(tower: VisionTransformer, images: Tensor) -> Tensor:
    """The tower from its parameters, patch by patch; the blocks are tested in test_transformer.py."""
    patch = tower.conv1.kernel_size[0]
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    kernel = tower.conv1.weight.flatten(1)
    tokens = [tower.class_embedding.expand(len(images), -1)]
    for row in range(rows):
        for column in range(columns):
            piece = images[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append(piece.flatten(1) @ kernel.T)
    positions = resize_positions(tower.positional_embedding, tower.grid, (rows, columns))
    x = torch.stack(tokens, dim=1) + positions
    x = F.layer_norm(x, x.shape[-1:], tower.ln_pre.weight, tower.ln_pre.bias)
    x = tower.transformer(x)[:, 0]
    return F.layer_norm(x, x.shape[-1:], tower.ln_post.weight, tower.ln_post.bias) @ tower.proj


def same_gradients(tower: VisionTransformer, out: Tensor, expected: Tensor, **tolerance: float) -> None:
    parameters = list(tower.parameters())
    mine, other = (torch.autograd.grad(x.square().sum(), parameters) for x in (out, expected))
    for gradient, reference in zip(mine, other, strict=True):
        torch.testing.assert_close(gradient, reference, **tolerance)


@pytest.mark.parametrize("size", [(16, 16), (12, 12), (16, 24)])
def test_values_and_gradients_equal_the_definition(size: tuple[int, int]) -> None:
    tower = small_vit()
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    out, expected = tower(images), written_out(tower, images)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    same_gradients(tower, out, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("changes", [{}, {"pool": "attention", "registers": 2}])
def test_dropped_patches_are_as_if_they_had_never_been(changes: dict[str, Any]) -> None:
    """Against the tower's own parts with tokens taken away by hand: values and every gradient."""
    tower = small_vit(patch_dropout=0.7, **changes)
    images = torch.randn(3, 3, 16, 24, dtype=torch.float64)
    assert tower.patches_read(images) == (24, 7)  # 7.2
    kept = torch.stack([torch.randperm(24)[:7].sort().values for _ in images])
    tokens = tower._tokens(images)
    ahead = tokens.shape[1] - 24
    rows = [torch.cat([of[:ahead], of[ahead:][patches]]) for of, patches in zip(tokens, kept, strict=True)]
    expected = tower._read(tower.ln_pre(torch.stack(rows))) @ tower.proj
    out = tower(images, kept)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    same_gradients(tower, out, expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(out, tower(images))  # who names no patches gets all
    assert small_vit().patches_read(images) == (24, 24)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_patches_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"model\.image\.patch_dropout=.* take 0 or more, below 1"):
        small_vit(patch_dropout=share)


def test_one_head_per_64_channels_unless_said() -> None:
    tower = VisionTransformer(image_size=8, patch_size=4, width=128, layers=1, embed_dim=4)
    block: Any = tower.transformer.resblocks[0]
    assert block.attn.heads == 2


def test_patches_that_do_not_tile_are_refused() -> None:
    with pytest.raises(UserError, match="not a multiple of patch_size=5"):
        small_vit(patch_size=5)


def test_attention_pooling_equals_torchs_attention_and_its_gradients() -> None:
    """Keys and values that are never formed change nothing."""
    torch.manual_seed(0)
    ours = AttentionPool(24, 3, nn.GELU()).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    peer = nn.MultiheadAttention(24, 3, batch_first=True, dtype=torch.float64)
    peer.load_state_dict(ours.attn.state_dict())
    x = torch.randn(5, 7, 24, dtype=torch.float64)

    pooled = peer(ours.probe.expand(5, 1, 24), x, x, need_weights=False)[0][:, 0]
    expected = pooled + ours.mlp(ours.ln(pooled))
    out = ours(x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), [ours.probe, *ours.attn.parameters()])
    other = torch.autograd.grad((expected * weight).sum(), [ours.probe, *peer.parameters()])
    for gradient, reference in zip(mine, other, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10)


def test_every_parameter_of_an_attention_pool_starts_at_a_number() -> None:
    assert all(p.isfinite().all() and p.abs().max() < 2 for p in AttentionPool(64, 2, nn.GELU()).parameters())


def test_siglips_tower_is_its_definition() -> None:
    """No class token, no norm before the blocks, a bias at the patches, the last norm over all, no projection."""
    siglip: dict[str, Any] = {"pool": "attention", "pre_norm": False, "patch_bias": True, "project": False}
    tower = small_vit(embed_dim=32, activation=nn.GELU(approximate="tanh"), norm_eps=1e-6, **siglip)
    names = {name.partition(".")[0] for name, _ in tower.named_parameters()}
    assert names == {"conv1", "positional_embedding", "transformer", "ln_post", "attn_pool"}
    assert tower.positional_embedding.shape == (16, 32)
    assert {module.eps for module in tower.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
    images = torch.randn(3, 3, 16, 24, dtype=torch.float64)
    patches = F.conv2d(images, tower.conv1.weight, tower.conv1.bias, stride=4).flatten(2).transpose(1, 2)
    x = tower.transformer(patches + resize_positions(tower.positional_embedding, 4, (4, 6)))
    expected = tower.attn_pool(F.layer_norm(x, (32,), tower.ln_post.weight, tower.ln_post.bias, 1e-6))
    torch.testing.assert_close(tower(images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", ["class", "attention"])
def test_registers_stand_beside_the_patches_and_are_not_read(pool: str) -> None:
    tower = small_vit(registers=3, pool=pool)
    assert tower.registers is not None
    nn.init.normal_(tower.registers)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    tokens = tower._tokens(images)
    ahead = 1 if pool == "class" else 0
    assert tokens.shape == (2, ahead + 3 + 16, 32)
    assert torch.equal(tokens[:, ahead : ahead + 3], tower.registers.expand(2, 3, 32))
    plain = small_vit(pool=pool)
    plain.load_state_dict({k: v for k, v in tower.state_dict().items() if k != "registers"})
    assert torch.equal(torch.cat([tokens[:, :ahead], tokens[:, ahead + 3 :]], 1), plain._tokens(images))
    x = tower.transformer(tower.ln_pre(tokens))
    read = tower.ln_post(x[:, 0]) if pool == "class" else tower.attn_pool(tower.ln_post(x[:, 3:]))
    torch.testing.assert_close(tower(images), read @ tower.proj, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(tower(images), plain(images))  # they take part in the attention
    assert torch.autograd.grad(tower(images).square().sum(), tower.registers)[0].abs().max() > 0


def test_what_a_tower_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="pool=mean is unknown: take class or attention"):
        small_vit(pool="mean")
    with pytest.raises(UserError, match="width of 32, not embed_dim=10"):
        small_vit(project=False)
    with pytest.raises(UserError, match="registers=-1"):
        small_vit(registers=-1)
