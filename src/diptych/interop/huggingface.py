"""Hugging Face's CLIP folders: ViTs only, with other names, separate query, key and value, transposed projections."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.terminal import one_line
from diptych.data.text import bpe
from diptych.interop.architecture import Architecture, architecture_of
from diptych.interop.files import read_json
from diptych.interop.weights import Weights, skeleton

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
CANDIDATES = (WEIGHTS, "pytorch_model.bin")
MODULES = {"image": "vision_model", "text": "text_model"}
PARTS = {  # below a tower, or below a block of it
    "class_embedding": "embeddings.class_embedding",
    "conv1": "embeddings.patch_embedding",
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_final": "final_layer_norm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
PROJECTIONS = {"image.proj": "visual_projection.weight", "text.text_projection": "text_projection.weight"}
BLOCK, JOINT = "transformer.resblocks.", "attn.in_proj_"
POSITIONS = tuple(f"{module}.embeddings.position_ids" for module in MODULES.values())  # 0, 1, 2 …, not learned
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
TOWER = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
TEXT = TOWER | {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
TEXT |= {"max_position_embeddings": 77, "eos_token_id": 49407}
VISION = TOWER | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_channels": 3}
VISION |= {"image_size": 224, "patch_size": 32}
COUNTS = {key for key, value in (TEXT | VISION).items() if type(value) is int}
log = logging.getLogger(__name__)


def names(ours: str) -> list[str]:
    """Our name -> theirs: three names where our tensor holds query, key and value."""
    if ours in PROJECTIONS:
        return [PROJECTIONS[ours]]
    tower, _, rest = ours.partition(".")
    if tower not in MODULES:
        return [ours]
    prefix = MODULES[tower]
    if rest.startswith(BLOCK):
        number, _, rest = rest.removeprefix(BLOCK).partition(".")
        prefix += f".encoder.layers.{number}"
    if rest.startswith(JOINT):
        return [f"{prefix}.self_attn.{part}_proj.{rest.removeprefix(JOINT)}" for part in "qkv"]
    for part, theirs in PARTS.items():
        if rest == part or rest.startswith(f"{part}."):
            return [f"{prefix}.{theirs}{rest.removeprefix(part)}"]
    return [f"{prefix}.{rest}"]


def spell(ours: str) -> str:
    """The first of `names`, for messages."""
    return names(ours)[0]


def from_state(state: Mapping[str, Tensor], path: Path) -> Weights:
    """The weights of a state dict with `config.json` and perhaps `preprocessor_config.json` beside its file, `path`.

    Raises UserError for another family, and for a key that is missing, unknown or of another shape.
    """
    source = path.parent / CONFIG
    config = read_json(source)
    if config.get("model_type", "clip") != "clip":
        raise UserError(f"{source} has model_type={config['model_type']}: only clip is supported.")
    architecture = _architecture(config, _processor_config(path.parent / PROCESSOR), str(source))
    kept = [key for key in POSITIONS if key in state]
    learned = {key: value for key, value in state.items() if key not in kept}
    expected = skeleton(architecture.config(), state, str(source)).state_dict()
    ours = {name: _joined(name, value, learned, path) for name, value in expected.items()}
    if learned:
        raise UserError(f"{path} is of another model: it has the unknown key {next(iter(learned))}.")
    return Weights(
        architecture.config(), ours, path, {"origin": {"format": "huggingface", "kept": kept}}, spell=spell
    )


def _joined(ours: str, expected: Tensor, state: dict[str, Tensor], path: Path) -> Tensor:
    """One tensor of ours, whose parts are taken out of `state`."""
    theirs = names(ours)
    shape = [*expected.shape][::-1] if ours in PROJECTIONS else [*expected.shape]
    shape[:1] = [rows // len(theirs) for rows in shape[:1]]
    for key in theirs:
        if key not in state:
            raise UserError(f"{path} is of another model: it lacks {key}, which is {shape} here.")
        if [*state[key].shape] != shape:
            raise UserError(f"{path} is of another model: {key} is {[*state[key].shape]} there and {shape} here.")
    pieces = [state.pop(key) for key in theirs]
    if len({piece.dtype for piece in pieces}) > 1:
        raise UserError(f"{path} is refused: {', '.join(theirs)} must have the same dtype.")
    if ours in PROJECTIONS:
        return pieces[0].T.contiguous()
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict -> theirs, contiguous."""
    found: dict[str, Tensor] = {}
    for ours, value in state.items():
        theirs = names(ours)
        pieces = [value.T] if ours in PROJECTIONS else value.chunk(len(theirs)) if len(theirs) > 1 else [value]
        found |= {key: piece.clone().contiguous() for key, piece in zip(theirs, pieces, strict=True)}
    return found


def _architecture(config: Mapping[str, Any], images: Mapping[str, Any], source: str) -> Architecture:
    text, vision = _tower(config, "text_config", TEXT, source), _tower(config, "vision_config", VISION, source)
    inner = vision["intermediate_size"]
    if vision["num_channels"] != 3 or not isinstance(vision["image_size"], int):
        raise UserError(
            f"{source} describes images that aren't square or not RGB: our towers only support square RGB images."
        )
    if text["eos_token_id"] not in (2, text["vocab_size"] - 1):  # 2 is an old way to say the highest id
        raise UserError(
            f"{source} has text_config.eos_token_id={text['eos_token_id']}: here it is always the highest id."
        )
    return Architecture(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        image_width=vision["hidden_size"],
        image_layers=vision["num_hidden_layers"],
        image_heads=vision["num_attention_heads"],
        image_mlp=None if inner == 4 * vision["hidden_size"] else inner,
        image_quick_gelu=ACTIVATIONS[vision["hidden_act"]],
        embed_dim=config.get("projection_dim", 512),
        text_width=text["hidden_size"],
        text_layers=text["num_hidden_layers"],
        text_heads=text["num_attention_heads"],
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        text_quick_gelu=ACTIVATIONS[text["hidden_act"]],
        **{key: tuple(images[f"image_{key}"]) for key in ("mean", "std") if f"image_{key}" in images},
    )


def _tower(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any], source: str) -> dict[str, Any]:
    given = config.get(f"{name}_dict") or config.get(name) or {}  # older files have the first name
    if not isinstance(given, Mapping):
        raise UserError(f"{source} is refused: its {name} is not a mapping.")
    tower = dict(defaults) | {key: value for key, value in given.items() if value is not None}
    for key in COUNTS & tower.keys():
        if type(tower[key]) is not int or tower[key] < 1:
            raise UserError(f"{source} is refused: its {name}.{key} is {tower[key]!r}, not a positive integer.")
    if tower["hidden_act"] not in ACTIVATIONS:
        raise UserError(f"{source} has {name}.hidden_act={tower['hidden_act']}: use one of {', '.join(ACTIVATIONS)}.")
    if tower["layer_norm_eps"] != 1e-5:
        raise UserError(
            f"{source} has {name}.layer_norm_eps={tower['layer_norm_eps']}: our towers only support 1e-05."
        )
    if name == "text_config" and tower["intermediate_size"] != 4 * tower["hidden_size"]:
        raise UserError(
            f"{source} has {name}.intermediate_size={tower['intermediate_size']}: here it is always 4 times the"
            f" width of {tower['hidden_size']}."
        )
    return tower


def _processor_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    found = read_json(file)
    for key, usual in (("resample", 3), ("do_center_crop", True), ("do_normalize", True), ("do_resize", True)):
        if found.get(key, usual) != usual:
            log.warning("%s prepares images with %s=%s, we use %s", file, key, one_line(found[key]), usual)
    return found


def write(weights: Weights, out: Path) -> None:
    """Write a folder for transformers' `from_pretrained`: model, image processor and tokenizer.

    Raises UserError for a model that CLIPModel can't store, and for a vocabulary other than OpenAI's.
    """
    architecture = architecture_of(weights.check(), "huggingface")
    if architecture.patch_size is None:
        raise UserError("Hugging Face's CLIP has no ResNet tower: use format=open_clip, openai or diptych.")
    if "logit_bias" in weights.describe:
        log.warning("%s: Hugging Face's CLIP can't store SigLIP's logit bias: it is left out", weights.path)
    out.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(out, architecture.vocab_size, architecture.context_length)
    state = _split(weights.state)
    kept = weights.describe.get("origin", {}).get("kept", ())
    for key, name in zip(POSITIONS, ("image.positional_embedding", "text.positional_embedding"), strict=True):
        if key in kept:
            state[key] = torch.arange(len(weights.state[name]))[None]
    save_file(state, out / WEIGHTS, metadata={"format": "pt"})
    _write_json(out / CONFIG, _config(architecture, weights.state))
    _write_json(out / PROCESSOR, _processor(architecture))


def _config(architecture: Architecture, state: Mapping[str, Tensor]) -> dict[str, Any]:
    quick = {quick: name for name, quick in ACTIVATIONS.items()}
    widest = max((value.dtype for value in state.values() if value.is_floating_point()), key=lambda d: d.itemsize)
    text = {
        "model_type": "clip_text_model",
        "vocab_size": architecture.vocab_size,
        "max_position_embeddings": architecture.context_length,
        "bos_token_id": architecture.vocab_size - 2,
        "eos_token_id": architecture.vocab_size - 1,
        "pad_token_id": architecture.vocab_size - 1,
        **_common(architecture.text_width, architecture.text_layers, architecture.text_heads),
        "hidden_act": quick[architecture.text_quick_gelu],
    }
    vision = {
        "model_type": "clip_vision_model",
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
        "num_channels": 3,
        **_common(
            architecture.image_width, architecture.image_layers, architecture.image_heads, architecture.image_mlp
        ),
        "hidden_act": quick[architecture.image_quick_gelu],
    }
    towers = {"text_config": text, "vision_config": vision}
    for tower in towers.values():
        tower["projection_dim"] = architecture.embed_dim
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": architecture.embed_dim,
        "torch_dtype": str(widest).removeprefix("torch."),
        **towers,
    }


def _common(width: int, layers: Any, heads: int | None, inner: int | None = None) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner or 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "layer_norm_eps": 1e-5,
    }


def _processor(architecture: Architecture) -> dict[str, Any]:
    size = architecture.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(architecture.mean),
        "image_std": list(architecture.std),
    }


def _write_tokenizer(folder: Path, vocab_size: int, context_length: int) -> None:
    """OpenAI's vocabulary as the files of transformers' CLIPTokenizer. Raises UserError for another number of ids."""
    vocabulary = bpe.openai()
    if vocab_size != vocabulary.size:
        raise UserError(
            f"The format huggingface is written with OpenAI's {vocabulary.size:,} ids and this model has"
            f" {vocab_size:,}: use format=diptych or open_clip."
        )
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    merges = "\n".join([bpe.TITLE, *map(" ".join, vocabulary.merges), ""])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    start, end = bpe.SPECIALS
    roles = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    settings = roles | {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", roles)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
