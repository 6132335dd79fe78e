"""Positions resampled, and layers counted from the head down."""

from __future__ import annotations

import torch

from diptych.towers.clip import CLIP
from diptych.towers.layers import resize_positions
from diptych.towers.resnet import BasicBlock, ModifiedResNet
from diptych.towers.text import CBOW, TextTransformer
from diptych.towers.vit import VisionTransformer


def test_the_trained_grid_is_left_alone() -> None:
    positions = torch.randn(1 + 16, 8)
    assert resize_positions(positions, 4, (4, 4)) is positions


def test_rows_follow_the_grid_and_the_first_stays() -> None:
    """A ramp along one axis stays one, whatever the size, and doesn't leak into the other axis."""
    down = torch.linspace(0, 1, 8)[:, None].expand(8, 8)
    right = down.T
    square = torch.stack([down, right, torch.ones(8, 8)], dim=-1).reshape(64, 3)
    positions = torch.cat([torch.tensor([[7.0, 8.0, 9.0]]), square])
    resized = resize_positions(positions, 8, (6, 12))
    assert torch.equal(resized[0], positions[0])
    grid = resized[1:].view(6, 12, 3)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all() and (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    torch.testing.assert_close(grid[..., 0], grid[:, :1, 0].expand(6, 12))
    torch.testing.assert_close(grid[..., 1], grid[:1, :, 1].expand(6, 12))
    torch.testing.assert_close(grid[..., 2], torch.ones(6, 12))


def test_gradients_reach_every_position() -> None:
    positions = torch.randn(1 + 16, 4, dtype=torch.float64, requires_grad=True)
    resize_positions(positions, 4, (3, 3)).square().sum().backward()
    assert positions.grad is not None and (positions.grad != 0).all()


def test_transformers_count_blocks_from_the_head_and_each_tower_its_own() -> None:
    clip = CLIP(
        VisionTransformer(8, 4, width=8, layers=3, embed_dim=6, heads=2, registers=2),
        TextTransformer(6, width=8, layers=2, heads=2, context_length=8, vocab_size=20),
    )
    above = clip.layers_above()
    assert above.keys() == {name for name, _ in clip.named_parameters()}
    for block, layers in ((0, 3), (1, 2), (2, 1)):
        assert above[f"image.transformer.resblocks.{block}.mlp.c_fc.weight"] == layers
    assert above["text.transformer.resblocks.0.ln_1.bias"] == 2
    below = ("conv1.weight", "class_embedding", "positional_embedding", "registers", "ln_pre.weight")
    assert {above[f"image.{name}"] for name in below} == {4}
    assert {above["text.token_embedding.weight"], above["text.positional_embedding"]} == {3}
    head = ("image.ln_post.weight", "image.proj", "text.ln_final.bias", "text.text_projection", "logit_scale")
    assert {above[name] for name in head} == {0}


def test_resnets_count_blocks_over_stages() -> None:
    above = ModifiedResNet(16, [2, 1], 8, 12, block=BasicBlock, stem_pool=False).layers_above()
    assert above["conv1.weight"] == above["bn3.bias"] == 4
    assert [above[f"layer{stage}.{block}.conv1.weight"] for stage, block in ((1, 0), (1, 1), (2, 0))] == [3, 2, 1]
    assert above["layer2.0.downsample.0.weight"] == 1
    assert above["attnpool.positional_embedding"] == above["attnpool.c_proj.weight"] == 0


def test_attention_pooling_is_of_the_head_and_a_bag_of_words_has_no_blocks() -> None:
    above = VisionTransformer(8, 4, width=8, layers=1, embed_dim=6, heads=2, pool="attention").layers_above()
    assert above["attn_pool.attn.in_proj_weight"] == above["attn_pool.probe"] == 0
    assert set(above.values()) == {0, 1, 2}
    assert CBOW(6, width=8, vocab_size=20).layers_above() == {
        "token_embedding.weight": 1, "ln_final.weight": 0, "ln_final.bias": 0, "text_projection": 0
    }  # fmt: skip
