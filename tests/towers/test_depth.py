"""Layers above a parameter, in every kind of tower."""

from __future__ import annotations

from diptych.towers.clip import CLIP
from diptych.towers.resnet import BasicBlock, ModifiedResNet
from diptych.towers.text import CBOW, TextTransformer
from diptych.towers.vit import VisionTransformer


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
