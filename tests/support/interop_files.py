"""Small CLIPs in every format, written from the formats' descriptions, without the libraries themselves."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych.building.build import build
from diptych.interop import huggingface, open_clip, to_open_clip
from diptych.interop.architecture import Architecture
from diptych.towers.clip import CLIP

SMALL = {"embed_dim": 12, "text_width": 16, "text_layers": 2, "text_heads": 1, "context_length": 20}
VIT = Architecture(
    image_size=16, patch_size=4, image_width=16, image_layers=2, image_heads=1, vocab_size=49408, **SMALL
)
RESNET = Architecture(
    image_size=64, patch_size=None, image_width=4, image_layers=(1, 2, 1, 1), image_heads=2, vocab_size=64, **SMALL
)


def model_of(architecture: Architecture, seed: int = 0) -> CLIP:
    """A model with random weights, gains and running statistics, so that a test notices any two that are swapped."""
    torch.manual_seed(seed)
    model = build(architecture.config())
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + (0.5 if name.endswith("running_var") else -0.5))
    return model.eval()


def mixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in float16 and the rest in float32, as in OpenAI's files."""
    return {
        name: value.half() if value.dim() > 1 and "embedding" not in name else value for name, value in state.items()
    }


def openai_state(architecture: Architecture, bookkeeping: bool = True) -> dict[str, Tensor]:
    state = mixed(to_open_clip(model_of(architecture)))
    if bookkeeping:
        numbers = (architecture.image_size, architecture.context_length, architecture.vocab_size)
        names = ("input_resolution", "context_length", "vocab_size")
        state |= {name: torch.tensor(number) for name, number in zip(names, numbers, strict=True)}
    return state


def scripted(state: dict[str, Tensor], root: nn.Module | None = None) -> Any:
    """A TorchScript module whose tensors have these names."""
    root = root or nn.Module()
    tree: dict[str, Any] = {}
    for name, value in state.items():
        node = tree
        *path, leaf = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(_grow(root, tree))


def _grow(module: nn.Module, tree: dict[str, Any]) -> nn.Module:
    for name, value in tree.items():
        if isinstance(value, dict):
            kind = nn.ModuleList if all(key.isdigit() for key in value) else nn.Module
            module.add_module(name, _grow(kind(), value))
        elif value.is_floating_point():
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)
    return module


def write_openai(folder: Path, architecture: Architecture = VIT) -> Path:
    torch.save(openai_state(architecture), folder / "openai.pt")
    return folder / "openai.pt"


def write_torchscript(folder: Path, architecture: Architecture = VIT) -> Path:
    state = openai_state(architecture) | {"transformer.resblocks.0.attn_mask": torch.zeros(3, 3)}
    torch.jit.save(scripted(state), folder / "ViT.pt")
    return folder / "ViT.pt"


def write_open_clip(
    folder: Path, architecture: Architecture = VIT, name: str = "open_clip_model.safetensors"
) -> Path:
    state = to_open_clip(model_of(architecture))
    config = {"model_cfg": open_clip.model_cfg(architecture)}
    config["preprocess_cfg"] = {"mean": list(architecture.mean), "std": list(architecture.std)}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:  # as open_clip's training writes it
        wrapped = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {}}, folder / name)
    return folder


def huggingface_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict, written again independently of the code under test."""
    found: dict[str, Tensor] = {}
    blocks = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2", "attn": "self_attn"}
    tops = {
        "image.class_embedding": "vision_model.embeddings.class_embedding",
        "image.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "image.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "image.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "image.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "image.ln_post.weight": "vision_model.post_layernorm.weight",
        "image.ln_post.bias": "vision_model.post_layernorm.bias",
        "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
        "text.ln_final.weight": "text_model.final_layer_norm.weight",
        "text.ln_final.bias": "text_model.final_layer_norm.bias",
        "logit_scale": "logit_scale",
    }
    for name, value in state.items():
        if name in tops:
            found[tops[name]] = value
        elif name == "image.proj":
            found["visual_projection.weight"] = value.T.contiguous()
        elif name == "text.text_projection":
            found["text_projection.weight"] = value.T.contiguous()
        else:
            tower, _, _, number, *rest = name.split(".")
            prefix = f"{'vision' if tower == 'image' else 'text'}_model.encoder.layers.{number}"
            if "in_proj" in name:
                width = len(value) // 3
                for place, letter in enumerate("qkv"):
                    part = value[place * width : (place + 1) * width]
                    found[f"{prefix}.self_attn.{letter}_proj.{name.rsplit('_', 1)[1]}"] = part.clone()
            else:
                found[".".join([prefix, *(blocks.get(part, part) for part in rest)])] = value
    return found


def write_huggingface(folder: Path, architecture: Architecture = VIT, name: str = "model.safetensors") -> Path:
    state = huggingface_state(model_of(architecture).state_dict())
    config = huggingface._config(architecture, state)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": list(architecture.mean), "image_std": list(architecture.std), "resample": 3})
    )
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:  # as older versions of transformers wrote it
        state["text_model.embeddings.position_ids"] = torch.arange(architecture.context_length)[None]
        torch.save(state, folder / name)
    return folder


def write_run(folder: Path, architecture: Architecture = VIT, **changes: Any) -> Path:
    """Writes a run's folder, with a checkpoint in Lightning's layout."""
    state = {f"model.{name}": value for name, value in model_of(architecture).state_dict().items()}
    describe = {"model": architecture.config(), "name": "run", "seed": 0}
    checkpoint = {"state_dict": state, "global_step": 5, "optimizer_states": [{}], "diptych": describe} | changes
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    return folder
