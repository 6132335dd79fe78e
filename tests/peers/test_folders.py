"""Exported folders as users of open_clip and transformers open them, and theirs as we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden.make_image_golden import picture
from peers.table import Peer, difference
from PIL import Image

import diptych
from diptych.building.build import build
from diptych.interop.formats import convert
from diptych.model.load import Loaded, load

pytestmark = pytest.mark.slow

# No HTML entity: transformers' CLIPTokenizer leaves "&amp;" as it is, where OpenAI's makes "&" of it.
CAPTIONS = ["a photo of a cat", "", "Two dogs & a café, it's 3.14!", "word " * 100]
TRANSFORMER = {
    "_target_": "diptych.towers.text.TextTransformer",
    "embed_dim": 24,
    "width": 32,
    "layers": 2,
    "heads": 4,
}


def vit(activation: str) -> dict[str, Any]:
    chosen = {"_target_": activation}
    image = {"_target_": "diptych.towers.vit.VisionTransformer", "image_size": 48, "patch_size": 8}
    image |= {"width": 64, "layers": 2, "heads": 4, "embed_dim": 24, "activation": chosen}
    return {
        "_target_": "diptych.towers.clip.CLIP",
        "image": image,
        "text": TRANSFORMER | {"activation": chosen},
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
    }


def resnet() -> dict[str, Any]:
    image = {"_target_": "diptych.towers.resnet.ModifiedResNet", "image_size": 64, "layers": [1, 2, 1, 1], "width": 8}
    return vit("torch.nn.GELU") | {"image": image | {"heads": 8, "embed_dim": 24}}


QUICK, PLAIN = "diptych.towers.transformer.QuickGELU", "torch.nn.GELU"
MODELS = {"vit": vit(QUICK), "vit gelu": vit(PLAIN), "resnet": resnet()}


def checkpoint(config: dict[str, Any], folder: Path) -> Path:
    """A checkpoint of ours with nothing at its initial 0 or 1, and the inputs beside it."""
    torch.manual_seed(0)
    model = build(config)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for value in state.values():
        if value.is_floating_point():
            value += 0.1 * torch.rand_like(value)
    torch.save({"diptych": {"model": config}, "state_dict": state, "global_step": 1}, folder / "ours.ckpt")
    return inputs(folder) / "ours.ckpt"


def inputs(folder: Path) -> Path:
    # Resized to 64×48: where the crop leaves an odd number of pixels, transformers cuts a column or row off the true
    # centre of torchvision, and so of OpenAI and open_clip.
    picture(58, 43).save(folder / "picture.png")
    (folder / "captions.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    return folder


@torch.no_grad()
def assert_same(clip: Loaded, folder: Path, kind: str) -> None:
    """The peer's pixels, ids, features and logits are ours."""
    theirs = torch.load(folder / "peer.pt", weights_only=True)
    tokens = clip.tokenizer(CAPTIONS)
    read = tokens.argmax(1)[:, None] >= torch.arange(tokens.shape[1])
    assert torch.equal(tokens * read, theirs["tokens"] * read)  # behind [EOS], transformers has [EOS] and we 0
    pixels = clip.preprocess(Image.open(folder / "picture.png"))[None]
    level = 1 / 255 / min(clip.model.std)
    assert (pixels - theirs["pixels"]).abs().max() <= (1e-5 if kind == "open_clip" else 1.001 * level)
    image, text, scale = clip.model(theirs["pixels"], tokens)
    for mine, other in ((image, "image"), (text, "text"), (scale * image @ text.T, "logits")):
        assert difference(mine, theirs[other]) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "name"),
    [("open_clip", name) for name in MODELS] + [("huggingface", name) for name in MODELS if name != "resnet"],
)
def test_the_peer_opens_what_we_export(kind: str, name: str, peer: Peer, tmp_path: Path) -> None:
    ours = checkpoint(MODELS[name], tmp_path)
    folder = convert(ours, kind, tmp_path / "exported")
    peer.ask("read", folder, kind=kind)
    assert_same(load(ours), tmp_path, kind)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("kind", ["open_clip", "huggingface"])
def test_we_open_what_the_peer_exports(kind: str, quick: bool, peer: Peer, tmp_path: Path) -> None:
    folder = inputs(tmp_path) / "theirs"
    peer.ask("write", folder, kind=kind, quick=quick)
    if kind == "huggingface":  # a model alone: transformers' processor and tokenizer come from our export
        folder = convert(folder, kind, tmp_path / "whole")
    peer.ask("read", folder, kind=kind)
    assert_same(diptych.load(folder), tmp_path, kind)
