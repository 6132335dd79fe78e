"""SigLIP's image tower of transformers and of timm, and timm's registers, beside ours with the same weights.

Prints the largest difference of the features, relative to the largest feature, in float64. Needs the peers.
"""

from __future__ import annotations

import json
import os
import re

os.environ["HF_HUB_OFFLINE"] = "1"
import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from diptych.towers.vit import VisionTransformer

BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
}


def renamed(state, top):
    """OpenAI's names for a peer's."""
    out = {}
    for name, value in state.items():
        for theirs, ours in top.items():
            name = re.sub("^" + re.escape(theirs), ours, name)
        if name.startswith("transformer."):
            for theirs, ours in BLOCK.items():
                name = name.replace("." + theirs, "." + ours)
        out[name] = value
    return out


def joined(state, base, parts, target):
    for kind in ("weight", "bias"):
        state[f"{target}_{kind}"] = torch.cat([state.pop(f"{base}{part}.{kind}") for part in parts])


def difference(ours, peer, read):
    each = []
    for seed in range(3):
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        mine, theirs = ours(images), read(peer(images))
        each.append((mine - theirs).abs().max() / theirs.abs().max())
    return torch.stack(each).max().item()  # NaN where one is, which `max` would pass over


def start(peer):
    torch.manual_seed(0)
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return peer.double().eval()


siglip = {
    "image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "embed_dim": 48, "heads": 3,
    "pool": "attention", "pre_norm": False, "patch_bias": True, "project": False, "norm_eps": 1e-6,
}  # fmt: skip
found = {}

peer = start(
    SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=48,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=32,
            patch_size=8,
        )
    )
)
state = {k.removeprefix("vision_model."): v for k, v in peer.state_dict().items()}
state = renamed(
    state,
    {
        "embeddings.patch_embedding": "conv1",
        "embeddings.position_embedding.weight": "positional_embedding",
        "encoder.layers": "transformer.resblocks",
        "post_layernorm": "ln_post",
        "head.attention": "attn_pool.attn",
        "head.layernorm": "attn_pool.ln",
        "head.probe": "attn_pool.probe",
        "head.mlp.fc1": "attn_pool.mlp.c_fc",
        "head.mlp.fc2": "attn_pool.mlp.c_proj",
    },
)
for block in range(2):
    base = f"transformer.resblocks.{block}."
    joined(state, base + "self_attn.", ("q_proj", "k_proj", "v_proj"), base + "attn.in_proj")
state["attn_pool.probe"] = state["attn_pool.probe"][0]
ours = VisionTransformer(**siglip, activation=nn.GELU(approximate="tanh")).double()
ours.load_state_dict(state, strict=True)
found["transformers"] = difference(ours, peer, lambda out: out.pooler_output)
exact = VisionTransformer(**siglip, activation=nn.GELU()).double()
exact.load_state_dict(state, strict=True)
found["transformers, wrong GELU"] = difference(exact, peer, lambda out: out.pooler_output)

size = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
peer = start(timm.create_model("vit_base_patch16_siglip_224", **size))
top = {
    "patch_embed.proj": "conv1",
    "blocks": "transformer.resblocks",
    "norm.": "ln_post.",
    "pos_embed": "positional_embedding",
    "attn_pool.latent": "attn_pool.probe",
    "attn_pool.norm": "attn_pool.ln",
    "attn_pool.proj": "attn_pool.attn.out_proj",
    "attn_pool.mlp.fc1": "attn_pool.mlp.c_fc",
    "attn_pool.mlp.fc2": "attn_pool.mlp.c_proj",
}
state = renamed(peer.state_dict(), top)
joined(state, "attn_pool.", ("q", "kv"), "attn_pool.attn.in_proj")
for name in ("positional_embedding", "attn_pool.probe"):
    state[name] = state[name][0]
exact.load_state_dict(state, strict=True)
found["timm"] = difference(exact, peer, lambda out: out)

peer = start(TimmViT(**size, reg_tokens=4, no_embed_class=True, num_classes=0, global_pool="token"))
state = renamed(peer.state_dict(), top | {"cls_token": "class_embedding", "reg_token": "registers"})
state["class_embedding"], state["registers"] = state["class_embedding"].flatten(), state["registers"][0]
state["positional_embedding"] = torch.cat([torch.zeros(1, 48, dtype=torch.float64), state["positional_embedding"][0]])
ours = VisionTransformer(**(siglip | {"pool": "class", "registers": 4}), activation=nn.GELU()).double()
ours.load_state_dict(state, strict=True)
found["registers of timm"] = difference(ours, peer, lambda out: out)
print(json.dumps(found))
