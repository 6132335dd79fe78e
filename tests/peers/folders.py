"""The peers' side of exported folders: open ours, and write theirs for us to open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

SMALL = {
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


class NoTokenizer:
    """open_clip's own CLIP tokenizer has no files to save."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def given(folder: Path) -> tuple[Image.Image, list[str]]:
    """The picture and the captions that lie beside a folder."""
    captions = (folder.parent / "captions.txt").read_text(encoding="utf-8").splitlines()
    return Image.open(folder.parent / "picture.png"), captions


def open_clip_folder(folder: Path) -> dict[str, Tensor]:
    """As a user of open_clip opens it."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", device="cpu")
    picture, captions = given(folder)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    pixels = preprocess(picture)[None]
    return _outputs(model.eval(), pixels, tokens)


def _outputs(model: Any, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    image, text, scale = model(pixels, tokens)
    return {"pixels": pixels, "tokens": tokens, "image": image, "text": text, "logits": scale * image @ text.T}


def transformers_folder(folder: Path) -> dict[str, Tensor]:
    """As a user of transformers opens it."""
    model, missing = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not any(missing.values()), missing
    picture, captions = given(folder)
    images = CLIPImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
    length = model.config.text_config.max_position_embeddings
    words = CLIPTokenizer.from_pretrained(folder)(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    whole = model.eval()(input_ids=words.input_ids, pixel_values=images.pixel_values)
    return {
        "pixels": images.pixel_values,
        "tokens": words.input_ids,
        "image": whole.image_embeds,
        "text": whole.text_embeds,
        "logits": whole.logits_per_image,
    }


def read(kind: str, folder: str) -> None:
    """Open a folder of ours, and write what the peer makes of it beside it."""
    opened = {"open_clip": open_clip_folder, "huggingface": transformers_folder}[kind](Path(folder))
    torch.save(opened, Path(folder).parent / "peer.pt")


def write(kind: str, folder: str, quick: bool) -> None:
    """A folder of the peer's own, with a model of its own."""
    torch.manual_seed(1)
    config = {"embed_dim": 24, "quick_gelu": quick, **SMALL}
    model: Any = open_clip.CLIP(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    if kind == "open_clip":
        model.visual.image_mean, model.visual.image_std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
        save_for_hf(model, NoTokenizer(), config, folder)
    else:
        from peer import hugging_face

        hugging_face(model, "quick_gelu" if quick else "gelu").save_pretrained(folder)
