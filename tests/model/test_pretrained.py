"""Weights to start from: they arrive bit for bit, positions fit the new size, and whatever else differs is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.data.text import bpe
from diptych.model.pretrained import start_from
from diptych.towers.layers import resize_positions

VIT = {
    "_target_": "diptych.towers.vit.VisionTransformer",
    "image_size": 16, "patch_size": 4, "width": 16, "layers": 2, "heads": 2, "embed_dim": 12,
}  # fmt: skip
RESNET = {
    "_target_": "diptych.towers.resnet.ModifiedResNet",
    "image_size": 16, "layers": [1], "width": 8, "embed_dim": 12, "stem_pool": False,
}  # fmt: skip
TEXT = {
    "_target_": "diptych.towers.text.TextTransformer",
    "embed_dim": 12, "width": 16, "layers": 1, "heads": 2, "context_length": 10, "vocab_size": 49408,
}  # fmt: skip


def config(image: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **clip: Any) -> dict[str, Any]:
    """A CLIP; `image` and `text` change its towers."""
    return {
        "_target_": "diptych.towers.clip.CLIP",
        "image": VIT | (image or {}),
        "text": TEXT | (text or {}),
    } | clip


def checkpoint(path: Path, described: dict[str, Any]) -> Path:
    torch.manual_seed(1)
    model = build(described)
    state = {f"model.{name}": torch.rand(value.shape).to(value) for name, value in model.state_dict().items()}
    torch.save({"diptych": {"model": described}, "state_dict": state, "global_step": 5}, path)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items()}


def fresh(*args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(2)
    return build(config(*args, **kwargs))


def test_every_weight_arrives(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.ckpt", config())
    model = fresh()
    notes = start_from(model, file)
    there = weights(file)
    assert all(torch.equal(value, there[name]) for name, value in model.state_dict().items())
    assert notes == [f"starts from model.pretrained={file}, {len(there)} tensors"]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_tower_alone(tmp_path: Path, tower: str) -> None:
    """The other may be of another kind altogether."""
    image, text = ({}, {"width": 32}) if tower == "image" else ({"width": 32}, {})
    file = checkpoint(tmp_path / "a.ckpt", config(image, text))
    model = fresh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from(model, file, tower)
    there = weights(file)
    for name, value in model.state_dict().items():
        assert torch.equal(value, (there if name.startswith(f"{tower}.") else before)[name]), name


def test_positions_are_resampled_and_it_is_said(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.ckpt", config(text={"context_length": 6}))
    there = weights(file)
    model = fresh({"image_size": 24}, {"context_length": 6})
    notes = start_from(model, file)
    grid = resize_positions(there["image.positional_embedding"], 4, (6, 6))
    assert torch.equal(model.image.positional_embedding, grid)
    assert torch.equal(model.image.positional_embedding[0], there["image.positional_embedding"][0])
    assert notes[1:] == ["image.positional_embedding resampled (bicubic) from 17 to 37 positions"]

    longer, shorter = fresh(text={"context_length": 11}), fresh(text={"context_length": 4})
    assert "text.positional_embedding resampled (linear) from 6 to 11 positions" in start_from(longer, file)[1]
    assert "cut from 6 to 4 positions" in start_from(shorter, file)[1]
    old = there["text.positional_embedding"]
    assert torch.equal(shorter.text.positional_embedding, old[:4])
    new = longer.text.positional_embedding
    torch.testing.assert_close(new[[0, -1]], old[[0, -1]])
    torch.testing.assert_close(new[5], (old[2] + old[3]) / 2)


@pytest.mark.parametrize("changed", [{"pool": "attention"}, {"registers": 2}])
def test_positions_without_a_class_token_and_with_registers(tmp_path: Path, changed: dict[str, Any]) -> None:
    file = checkpoint(tmp_path / "a.ckpt", config(changed))
    model = fresh(changed | {"image_size": 8})
    start_from(model, file)
    expected = resize_positions(weights(file)["image.positional_embedding"], 4, (2, 2))
    assert torch.equal(model.image.positional_embedding, expected)
    assert len(expected) == 4 + (changed.get("pool") != "attention")


def test_positions_of_a_resnets_pooling(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.ckpt", config() | {"image": RESNET})
    model = build(config() | {"image": RESNET | {"image_size": 32}})
    assert "attnpool.positional_embedding resampled (bicubic) from 65 to 257 positions" in start_from(model, file)[1]


REFUSED = {
    "width": (config({"width": 32}), r"image\.[\w.]+ is \[[\d, ]*32[\d, ]*\] there and \[[\d, ]*16[\d, ]*\] here"),
    "layers": (config({"layers": 3}), r"unknown key image\.transformer\.resblocks\.2\."),
    "activation": (
        config({"activation": {"_target_": "torch.nn.GELU"}}),
        r"has GELU\(approximate='none'\) at image\.transformer\.resblocks\.0\.mlp\.gelu and the config QuickGELU\(\)",
    ),
    "heads": (
        config(text={"heads": 4}),
        r"has Attention\(4 heads\) at text\.\S+ and the config Attention\(2 heads\)",
    ),
    "eps": (config({"norm_eps": 1e-6}), r"eps=1e-06.* at image\.ln_pre and the config .*eps=1e-05"),
    "mean": (config(mean=[0.5, 0.5, 0.5]), r"another mean of the pixels: type '\+\+model\.mean=\[0\.5,0\.5,0\.5\]'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str) -> None:
    described, message = REFUSED[name]
    file = checkpoint(tmp_path / "a.ckpt", described)
    with pytest.raises(UserError, match=rf"model\.pretrained=\S+a\.ckpt .*{message}"):
        start_from(fresh(), file)


def test_another_vocabulary_is_named(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.ckpt", config())
    with pytest.raises(UserError, match=r"text\.token_embedding\.weight is \[49408, 16\] there and \[30, 16\] here"):
        start_from(fresh(text={"vocab_size": 30}), file)
    start_from(fresh(text={"vocab_size": 30}), file, "image")  # no word of it


def test_another_vocabulary_of_as_many_ids_is_named(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.ckpt", config())
    other = tmp_path / "other.txt"
    *merges, before, last = bpe.openai().merges
    other.write_text(bpe.Vocabulary([*merges, last, before]).text)
    with pytest.raises(
        UserError, match=r"another vocabulary than model\.text\.vocabulary=\S+other.txt: give the file"
    ):
        start_from(fresh(text={"vocabulary": str(other)}), file)


def test_a_towers_stem_shows_in_no_shape_but_counts(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.ckpt", config() | {"image": RESNET | {"stem_pool": True, "image_size": 32}})
    with pytest.raises(UserError, match=r"AveragePool.* at image\.avgpool and the config Identity"):
        start_from(build(config() | {"image": RESNET}), file)


def test_a_file_that_is_none_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^model\.text\.pretrained=\S+ is refused"):
        start_from(fresh(), tmp_path / "a.ckpt", "text")
