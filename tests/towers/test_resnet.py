from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.towers.layers import resize_positions
from diptych.towers.resnet import AttentionPool2d, BasicBlock, Bottleneck, ModifiedResNet, mean_of_cells


def scramble(module: nn.Module) -> nn.Module:
    """Float64 with every parameter away from its initial zeros and ones."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def norm(x: Tensor, batch_norm: Any) -> Tensor:
    """Batch norm of training mode, written out."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = (value.view(1, -1, 1, 1) for value in (batch_norm.weight, batch_norm.bias))
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def bottleneck(x: Tensor, block: Any, stride: int) -> Tensor:
    out = norm(F.conv2d(x, block.conv1.weight), block.bn1).relu()
    out = norm(F.conv2d(out, block.conv2.weight, padding=1), block.bn2).relu()
    out = norm(F.conv2d(F.avg_pool2d(out, stride), block.conv3.weight), block.bn3)
    if block.downsample is not None:
        convolution, batch_norm = list(block.downsample.children())[1:]
        x = norm(F.conv2d(F.avg_pool2d(x, stride), convolution.weight), batch_norm)
    return (out + x).relu()


def basic_block(x: Tensor, block: Any, stride: int) -> Tensor:
    x = F.avg_pool2d(x, stride)
    out = norm(F.conv2d(x, block.conv1.weight, padding=1), block.bn1).relu()
    out = norm(F.conv2d(out, block.conv2.weight, padding=1), block.bn2)
    if block.downsample is not None:
        x = norm(F.conv2d(x, block.downsample[0].weight), block.downsample[1])
    return (out + x).relu()


def attention_pool(x: Tensor, pool: AttentionPool2d) -> Tensor:
    """With torch's multi-head attention: one query, keys and values of every cell."""
    channels = x.shape[1]
    positions = resize_positions(pool.positional_embedding, pool.grid, (x.shape[2], x.shape[3]))
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(0, keepdim=True), x]) + positions[:, None]
    projections = (pool.q_proj, pool.k_proj, pool.v_proj)
    out, _ = F.multi_head_attention_forward(
        query=x[:1],
        key=x,
        value=x,
        embed_dim_to_check=channels,
        num_heads=pool.heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([projection.bias for projection in projections]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    return out[0]


def written_out(tower: Any, images: Tensor, block: Any, stem_pool: bool) -> Tensor:
    x = norm(F.conv2d(images, tower.conv1.weight, stride=2, padding=1), tower.bn1).relu()
    x = norm(F.conv2d(x, tower.conv2.weight, padding=1), tower.bn2).relu()
    x = norm(F.conv2d(x, tower.conv3.weight, padding=1), tower.bn3).relu()
    x = F.avg_pool2d(x, 2) if stem_pool else x
    for number, stage in enumerate(tower.stages):
        for position, each in enumerate(getattr(tower, stage)):
            x = block(x, each, 2 if number and not position else 1)
    return attention_pool(x, tower.attnpool)


def assert_same(tower: nn.Module, out: Tensor, expected: Tensor) -> None:
    """Equal values, and equal gradients of every parameter."""
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    parameters = list(tower.parameters())
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), parameters)
    other = torch.autograd.grad((expected * weight).sum(), parameters)
    for gradient, reference in zip(mine, other, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (64, 96)])
def test_the_papers_blocks_equal_the_definition(size: tuple[int, int]) -> None:
    tower = scramble(ModifiedResNet(64, [1, 2, 1, 1], width=4, embed_dim=6, heads=4))
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    assert_same(tower, tower(images), written_out(tower, images, bottleneck, stem_pool=True))


@pytest.mark.parametrize("layers", [[1], [2, 1], [1, 1, 1]])
def test_basic_blocks_equal_the_definition(layers: list[int]) -> None:
    tower = scramble(ModifiedResNet(32, layers, 8, 6, heads=2, block=BasicBlock, stem_pool=False))
    images = torch.randn(3, 3, 24, 24, dtype=torch.float64)
    assert tower.attnpool.grid == 32 // 2 ** len(layers)  # type: ignore[union-attr]
    assert_same(tower, tower(images), written_out(tower, images, basic_block, stem_pool=False))


@pytest.mark.parametrize("block", [Bottleneck, BasicBlock])
def test_a_new_block_is_the_identity(block: Any) -> None:
    channels = 16 if block is Bottleneck else 4
    images = torch.rand(2, channels, 6, 6)
    assert torch.equal(block(channels, 4, 1)(images), images)


def test_attention_pooling_starts_with_openais_spread() -> None:
    torch.manual_seed(0)
    pool = AttentionPool2d(grid=7, channels=256, heads=4, embed_dim=64)
    for value in (pool.q_proj.weight, pool.c_proj.weight, pool.positional_embedding):
        assert value.std().item() == pytest.approx(256**-0.5, rel=0.03)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="16 is smaller than the tower's stride of 32"):
        ModifiedResNet(16, [1, 1, 1, 1], width=8, embed_dim=4)
    with pytest.raises(UserError, match="can't be shared by 3 heads"):
        AttentionPool2d(grid=2, channels=64, heads=3, embed_dim=4)


@pytest.mark.parametrize(("side", "size"), [(2, (8, 8)), (2, (7, 5)), (4, (9, 12))])
def test_a_gpus_pooling_is_the_librarys(side: int, size: tuple[int, int]) -> None:
    x = torch.randn(3, 6, *size, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    found, expected = mean_of_cells(x, side), F.avg_pool2d(x, side)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)))
