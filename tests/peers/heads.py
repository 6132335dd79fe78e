"""Prints open_clip's models of OpenAI's design, with what our table of heads needs to know of each."""

from __future__ import annotations

import json
from pathlib import Path

import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import open_clip


def rows() -> dict[str, dict[str, object]]:
    """Name -> width, layers and heads of both towers, and the image tower's MLP width. By its own defaults:
    head_width=64, heads=8, mlp_ratio=4 (`CLIPVisionCfg`, `CLIPTextCfg`)."""
    found = {}
    for file in (Path(open_clip.__file__).parent / "model_configs").glob("*.json"):
        config = json.loads(file.read_text())
        vision, text = config["vision_cfg"], config["text_cfg"]
        if "timm_model_name" in vision or "hf_model_name" in text or "multimodal_cfg" in config:
            continue
        stages = vision["layers"] if isinstance(vision["layers"], list) else None
        width = vision["width"] * (32 if stages else 1)
        found[file.stem] = {
            "image": [vision["width"], stages or vision["layers"]],
            "text": [text["width"], text["layers"]],
            "image_heads": width // vision.get("head_width", 64),
            "text_heads": text.get("heads", 8),
            "mlp": None if stages else int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "mlp_ratio": vision.get("mlp_ratio"),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(rows()))
