"""Untrusted files stay data: nothing in them runs, and each is refused in one sentence."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

import diptych
from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.model.load import load

CONFIG = {
    "_target_": "diptych.towers.clip.CLIP",
    "image": {
        "_target_": "diptych.towers.resnet.ModifiedResNet",
        "image_size": 16,
        "layers": [1],
        "width": 8,
        "embed_dim": 12,
        "stem_pool": False,
        "block": {"_target_": "diptych.towers.resnet.BasicBlock", "_partial_": True},
    },
    "text": {
        "_target_": "diptych.towers.text.TextTransformer",
        "embed_dim": 12,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "activation": {"_target_": "torch.nn.GELU"},
    },
}


def write(path: Path, **changes: object) -> Path:
    model = build(CONFIG)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"diptych": {"model": CONFIG}, "state_dict": state, "global_step": 5} | changes, path)
    return path


def test_a_checkpoint_describes_itself(tmp_path: Path) -> None:
    clip = load(write(tmp_path / "x.ckpt"))
    assert clip.step == 5 and not clip.model.training
    image = clip.preprocess(Image.new("RGBA", (50, 30), (255, 0, 0, 255)))
    assert image.shape == (3, 16, 16)
    torch.testing.assert_close(image[0].mean(), torch.tensor((1 - 0.48145466) / 0.26862954))
    with torch.inference_mode():
        image_features, text_features, scale = clip.model(image[None], clip.tokenizer(["a red square"]))
    assert image_features.shape == text_features.shape == (1, 12)
    torch.testing.assert_close(scale, torch.tensor(1 / 0.07))


class Malice:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.sentinel}",)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Malice(sentinel)))
    torch.save({"diptych": Malice(sentinel)}, tmp_path / "zip.ckpt")
    for name in ("plain.ckpt", "zip.ckpt"):
        with pytest.raises(UserError, match="is refused"):
            load(tmp_path / name)
    for target in ("os.system", "torch.hub.load", "diptych.commands.train.train", "torch.nn.GELU.__init__", 7):
        hostile = {"model": {"_target_": target, "command": f"touch {sentinel}"}}
        with pytest.raises(UserError, match="refused"):
            load(write(tmp_path / "hostile.ckpt", diptych=hostile))
    nested = CONFIG | {"mean": {"_target_": "os.system", "command": f"touch {sentinel}"}}
    with pytest.raises(UserError, match=r"os\.system"):
        load(write(tmp_path / "nested.ckpt", diptych={"model": nested}))
    assert not sentinel.exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in build(CONFIG).state_dict().items()}
    lacking = {name: value for name, value in state.items() if name != "model.logit_scale"}
    with pytest.raises(UserError, match=r"lacks logit_scale"):
        load(write(tmp_path / "a.ckpt", state_dict=lacking))
    with pytest.raises(UserError, match=r"unknown key extra"):
        load(write(tmp_path / "b.ckpt", state_dict=state | {"model.extra": torch.ones(1)}))
    wrong = state | {"model.text.text_projection": torch.ones(3, 4)}
    with pytest.raises(UserError, match=r"text\.text_projection is \[3, 4\] there and \[16, 12\] here"):
        load(write(tmp_path / "c.ckpt", state_dict=wrong))
    torch.save({"state_dict": state}, tmp_path / "d.ckpt")
    with pytest.raises(UserError, match="its own description is missing"):
        load(tmp_path / "d.ckpt")
    with pytest.raises(UserError, match="no model of two towers"):
        load(write(tmp_path / "e.ckpt", diptych={"model": {"_target_": "torch.nn.GELU"}}))
    unbuildable = CONFIG | {"image": CONFIG["image"] | {"colour": 3}}
    with pytest.raises(UserError, match="can't be built"):
        load(write(tmp_path / "f.ckpt", diptych={"model": unbuildable}))


def test_create_model_from_python() -> None:
    model = diptych.create_model("vit_tiny", image__layers=1)
    assert len(model.image.transformer.resblocks) == 1
    assert model.image_size == 32 and model.context_length == 77
    with pytest.raises(UserError, match=r"model=vit_b99 is unknown: take vit_b"):
        diptych.create_model("vit_b99")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = diptych.nothing
    assert diptych.loss.ContrastiveLoss and diptych.data.Order


def test_a_checkpoint_carries_its_vocabulary_and_names_no_file(tmp_path: Path) -> None:
    merges = "#version: 0.2\nr e\nre d</w>\n"
    (tmp_path / "v.txt").write_text(merges)
    text = CONFIG["text"] | {"vocab_size": 516}
    model = build(CONFIG | {"text": text})
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    carrying = {"model": CONFIG | {"text": text | {"vocabulary": merges}}}
    clip = load(write(tmp_path / "carrying.ckpt", diptych=carrying, state_dict=state))
    assert clip.tokenizer(["red"])[0, :3].tolist() == [514, 513, 515]
    naming = {"model": CONFIG | {"text": text | {"vocabulary": str(tmp_path / "v.txt")}}}
    with pytest.raises(UserError, match="names the vocabulary"):
        load(write(tmp_path / "naming.ckpt", diptych=naming, state_dict=state))
    other = {"model": CONFIG | {"text": text | {"vocabulary": merges + "a b\n"}}}
    with pytest.raises(UserError, match="516 ids and its vocabulary 517"):
        load(write(tmp_path / "other.ckpt", diptych=other, state_dict=state))
