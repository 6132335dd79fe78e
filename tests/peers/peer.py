"""The peers' side: open_clip and Hugging Face's CLIPModel, with random weights, in .venv-peers (`make peers`).

    .venv-peers/bin/python tests/peers/peer.py

Each line of its input is one request in JSON, each line of its output the answer: `make` writes a model's state
dict, inputs and outputs into a folder; `accept` loads a state dict of ours with strict=True; `read` and `write` are
those of folders.py.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import folders
import open_clip
import torch
import transformers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

NAMES = {
    "rn50": "RN50",
    "rn101": "RN101",
    "rn50x4": "RN50x4",
    "rn50x16": "RN50x16",
    "rn50x64": "RN50x64",
    "vit_b32": "ViT-B-32",
    "vit_b16": "ViT-B-16",
    "vit_l14": "ViT-L-14",
    "vit_l14_336": "ViT-L-14-336",
}
LOGIT_SCALE = 4.6052  # ln 100, where trained models end
SOS, EOS = 49406, 49407
NORMS = (nn.BatchNorm2d, nn.LayerNorm)


def scramble(model: nn.Module) -> None:
    """Gains, biases and the scale away from their initial zeros and ones, so that a lost one shows."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NORMS):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
            elif getattr(module, "bias", None) is not None:
                module.bias.normal_(0, 0.05)
            elif hasattr(module, "in_proj_bias"):
                module.in_proj_bias.normal_(0, 0.05)
        model.logit_scale.fill_(LOGIT_SCALE)


def keep_batch_statistics(model: nn.Module) -> None:
    """In training mode, batch norm's running statistics become those of the last batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0


def disturb_statistics(model: nn.Module) -> None:
    """Running statistics away from the last batch's, so that training and evaluation differ."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            spread = module.running_var.sqrt()
            module.running_mean += 0.2 * spread * torch.randn_like(spread)
            module.running_var *= torch.empty_like(spread).uniform_(0.7, 1.4)


def captions(count: int = 4, length: int = 77) -> Tensor:
    """Random tokens in [SOS] … [EOS] and padding: as long as can be, empty, and between."""
    tokens = torch.zeros(count, length, dtype=torch.long)
    for row, words in zip(tokens, [length - 2, 0, 7, 30], strict=True):
        row[0], row[words + 1] = SOS, EOS
        row[1 : words + 1] = torch.randint(1, SOS, (words,))
    return tokens


def without_quick_gelu(name: str, model: Any) -> Any:
    """The same weights under GELU: tensors are shared, only the activations are others."""
    with torch.device("meta"):
        other = open_clip.CLIP(**open_clip.get_model_config(NAMES[name]))
    other.load_state_dict(model.state_dict(), strict=True, assign=True)
    other.attn_mask = model.attn_mask
    return other


def outputs(model: Any, images: Tensor, tokens: Tensor, image: Tensor | None = None) -> dict[str, Tensor]:
    """Features and logits as open_clip computes them; image features that are known already can be given."""
    image = model.encode_image(images) if image is None else image
    text = model.encode_text(tokens)
    unit, words = (nn.functional.normalize(each, dim=-1) for each in (image, text))
    return {"image": image, "text": text, "logits": model.logit_scale.exp() * unit @ words.T}


def open_clip_outputs(name: str, model: Any, images: Tensor, tokens: Tensor) -> dict[str, dict[str, Tensor]]:
    """Outputs by activation and mode. Leaves the statistics of `disturb_statistics` in the model."""
    plain = without_quick_gelu(name, model)
    found = {}
    keep_batch_statistics(model)
    for mode in ("train", "eval"):
        for each in (model, plain):
            each.train(mode == "train")
        found[f"quickgelu {mode}"] = outputs(model, images, tokens)
        # No activation in a ResNet changes: its features are those already found.
        known = found[f"quickgelu {mode}"]["image"] if name.startswith("rn") else None
        found[f"gelu {mode}"] = outputs(plain, images, tokens, known)
        if mode == "train":
            found["statistics"] = {
                key: value.clone() for key, value in model.state_dict().items() if ".running_" in key
            }
            disturb_statistics(model)
    return found


def hugging_face(model: Any, activation: str) -> CLIPModel:
    """The same weights in transformers' model; its three projections are views of the one that open_clip has."""
    width, text_width = model.visual.conv1.out_channels, model.ln_final.weight.numel()
    blocks, text_blocks = model.visual.transformer.resblocks, model.transformer.resblocks
    shared = {"hidden_act": activation, "projection_dim": model.text_projection.shape[1]}
    config = CLIPConfig(
        text_config={
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": len(text_blocks),
            "num_attention_heads": text_blocks[0].attn.num_heads,
            "max_position_embeddings": model.context_length,
            **shared,
        },
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": blocks[0].attn.num_heads,
            "image_size": model.visual.image_size[0],
            "patch_size": model.visual.patch_size[0],
            **shared,
        },
        projection_dim=model.text_projection.shape[1],
    )
    with torch.device("meta"):
        other = CLIPModel(config)
    for tower in (other.text_model, other.vision_model):
        count = tower.embeddings.position_ids.shape[1]
        tower.embeddings.position_ids = torch.arange(count)[None]
    other.load_state_dict(hugging_face_names(model.state_dict()), strict=True, assign=True)
    return other


def hugging_face_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ViT's state dict with transformers' names: projections as Linear weights, and q, k and v apart."""
    whole = {
        "logit_scale": "logit_scale",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.": "text_model.final_layer_norm.",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "visual.transformer.resblocks.": "vision_model.encoder.layers.",
        "transformer.resblocks.": "text_model.encoder.layers.",
    }
    inner = {"ln_": "layer_norm", "attn.": "self_attn.", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    renamed = {
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
    }
    for key, value in state.items():
        start = next((start for start in whole if key.startswith(start)), None)
        if start is None:
            continue
        name = whole[start] + key.removeprefix(start)
        if "encoder.layers." in name:
            for old, new in inner.items():
                name = name.replace(old, new)
        if "in_proj_" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            renamed[name] = value
    return renamed


def hugging_face_outputs(model: Any, images: Tensor, tokens: Tensor) -> dict[str, dict[str, Tensor]]:
    """Outputs by activation and mode, each through CLIPModel's own forward pass."""
    found = {}
    for activation, hidden_act in (("quickgelu", "quick_gelu"), ("gelu", "gelu")):
        other = hugging_face(model, hidden_act)
        for mode in ("train", "eval"):
            other.train(mode == "train")
            whole = other(input_ids=tokens, pixel_values=images)
            found[f"{activation} {mode}"] = {
                "image": whole.vision_model_output.pooler_output,  # projected, as of transformers 5
                "text": whole.text_model_output.pooler_output,
                "logits": whole.logits_per_image,
            }
    return found


def make(name: str, folder: str) -> dict[str, Any]:
    """Write state.pt (a plain state dict) and outputs.pt into the folder."""
    torch.manual_seed(20210226)
    model: Any = open_clip.create_model(f"{NAMES[name]}-quickgelu", precision="fp32")
    scramble(model)
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    count = 1 if name.startswith("vit_l14") else 2  # batch norm wants two; a large ViT is spared the second
    images, tokens = torch.randn(count, 3, side, side), captions()
    written: dict[str, Any] = {"images": images, "tokens": tokens}
    written["open_clip"] = open_clip_outputs(name, model, images, tokens)
    if name.startswith("vit"):
        written["transformers"] = hugging_face_outputs(model, images, tokens)
    torch.save(model.state_dict(), Path(folder) / "state.pt")
    torch.save(written, Path(folder) / "outputs.pt")
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def accept(name: str, folder: str) -> dict[str, Any]:
    """Load ours.pt with strict=True, and say how many of its tensors are state.pt's, bit for bit."""
    ours, mine = (torch.load(Path(folder) / file, weights_only=True, mmap=True) for file in ("ours.pt", "state.pt"))
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(f"{NAMES[name]}-quickgelu"))
    model.load_state_dict(ours, strict=True, assign=True)
    loaded = model.state_dict()
    same = sum(value.dtype == loaded[key].dtype and torch.equal(value, loaded[key]) for key, value in mine.items())
    return {"keys": len(mine), "same": same, "strict": loaded.keys() == mine.keys()}


def main() -> None:
    """Answer requests until the input ends."""
    versions = {each.__name__: each.__version__ for each in (open_clip, transformers, torch)}
    print(json.dumps(versions), flush=True)
    actions = {"make": make, "accept": accept, "read": folders.read, "write": folders.write}
    for line in sys.stdin:
        request = json.loads(line)
        with redirect_stdout(sys.stderr), torch.no_grad():
            answer = actions[request.pop("do")](**request) or {}
        gc.collect()
        answer["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
