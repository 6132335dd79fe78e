"""Attention heads, which no weight shows: known models, what a caller says, and a refusal for the rest."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interop_files import VIT, model_of, openai_state, write_open_clip, write_run
from torch import Tensor

import diptych
from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.interop import from_open_clip, open_clip, to_open_clip
from diptych.interop.architecture import Architecture, architecture_of, infer, ours_from_openai
from diptych.interop.formats import convert, read
from diptych.interop.heads import NO_HINTS, Hints, with_heads
from diptych.loss import ContrastiveLoss, SigLIPLoss
from diptych.model.pretrained import start_from

SHAPES: dict[str, dict[str, Any]] = {  # of open_clip's configs: width, layers, heads of both towers, the ViT's MLP
    "ViT-B-32": {"image": (768, 12, 12), "text": (512, 12, 8), "mlp": None},
    "ViT-B-16-plus": {"image": (896, 12, 14), "text": (640, 12, 10), "mlp": None},
    "ViT-S-32-alt": {"image": (384, 12, 6), "text": (256, 10, 4), "mlp": None},
    "ViT-H-14": {"image": (1280, 32, 16), "text": (1024, 24, 16), "mlp": None},
    "ViT-g-14": {"image": (1408, 40, 16), "text": (1024, 24, 16), "mlp": 6144},
    "ViT-bigG-14": {"image": (1664, 48, 16), "text": (1280, 32, 20), "mlp": 8192},
    "ViT-e-14": {"image": (1792, 56, 16), "text": (1280, 36, 20), "mlp": 15360},
}


def architecture(name: str) -> Architecture:
    (width, layers, heads), (text_width, text_layers, text_heads) = SHAPES[name]["image"], SHAPES[name]["text"]
    return Architecture(
        image_size=28, patch_size=14, image_width=width, image_layers=layers, image_heads=heads, embed_dim=64,
        text_width=text_width, text_layers=text_layers, text_heads=text_heads, context_length=77, vocab_size=49408,
        image_mlp=SHAPES[name]["mlp"],
    )  # fmt: skip


def without_memory(found: Architecture) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build(found.config()).state_dict()


@pytest.mark.parametrize("name", SHAPES)
def test_known_models_have_their_heads_and_mlps(name: str) -> None:
    expected = architecture(name)
    state = ours_from_openai(to_open_clip_names(without_memory(expected)))
    assert with_heads(infer(state, "x"), NO_HINTS, "x") == expected
    cfg = open_clip.model_cfg(expected)
    read_back = open_clip.with_config(infer(state, "x"), cfg, "x")
    assert (read_back.image_heads, read_back.text_heads) == (expected.image_heads, expected.text_heads)


def to_open_clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    from diptych.interop.architecture import openai_from_ours

    return openai_from_ours(state)


def test_open_clip_s_ratio_gives_the_mlp_back() -> None:
    """It rounds down: int(1408 · 4.3637) is 6144 in its own config of ViT-g-14."""
    wide = [name for name in SHAPES if SHAPES[name]["mlp"]]
    assert len(wide) == 3
    for name in wide:
        ratio = open_clip.model_cfg(architecture(name))["vision_cfg"]["mlp_ratio"]
        assert int(SHAPES[name]["image"][0] * ratio) == SHAPES[name]["mlp"]
    state = without_memory(architecture("ViT-g-14"))
    with pytest.raises(UserError, match=r"mlp_ratio=4\.0, and the MLPs of the weights beside it are 6144 wide"):
        open_clip.with_config(infer(state, "x"), {}, "x")


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_small_model_needs_its_heads_said(heads: int, folder: Path) -> None:
    """The features of a wrong number differ without an error, so a guess would be found out by nobody."""
    made = replace(VIT, image_heads=heads, text_heads=heads)
    torch.save(to_open_clip(model_of(made)), folder / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt doesn't say how many attention heads its image tower has, and no"):
        read(folder / "x.pt")
    with pytest.raises(UserError, match=r"its text tower has.* give text_heads=N"):
        read(folder / "x.pt", Hints(image_heads=heads))
    images, tokens = torch.randn(2, 3, 16, 16), torch.randint(1, 49000, (2, 20))
    expected = model_of(made)(images, tokens)
    loaded = diptych.load(folder / "x.pt", image_heads=heads, text_heads=heads).model
    assert all(torch.equal(*pair) for pair in zip(loaded(images, tokens), expected, strict=True))
    in_memory = from_open_clip(to_open_clip(model_of(made)), image_heads=heads, text_heads=heads)
    assert all(torch.equal(*pair) for pair in zip(in_memory(images, tokens), expected, strict=True))
    with pytest.raises(UserError, match="image_heads=3 can't be right"):
        diptych.load(folder / "x.pt", image_heads=3, text_heads=heads)
    wrong = diptych.load(folder / "x.pt", image_heads=8, text_heads=8).model
    assert not torch.allclose(wrong.encode_image(images, True), expected[0])
    with pytest.raises(UserError, match="The state dict doesn't say how many attention heads"):
        from_open_clip(to_open_clip(model_of(made)))


def test_openai_s_own_files_follow_openai_s_rule(folder: Path) -> None:
    """Its code takes a head per 64 channels; the three numbers beside the parameters are only in its files."""
    made = replace(VIT, image_width=128, image_heads=2)
    torch.save(openai_state(made), folder / "openai.pt")
    assert architecture_of(read(folder / "openai.pt").model(), "x").image_heads == 2


def test_what_is_assumed_of_a_bare_state_dict_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = without_memory(architecture("ViT-S-32-alt"))
    torch.save({name: torch.zeros(value.shape) for name, value in to_open_clip_names(state).items()}, folder / "x.pt")
    with caplog.at_level(logging.WARNING):
        read(folder / "x.pt")
    for part in ("QuickGELU", "6 image and 4 text heads", "OpenAI's mean and std", "open_clip_config.json"):
        assert part in caplog.text


def test_a_run_that_starts_from_a_bare_file_says_heads_and_activation_by_its_config(folder: Path) -> None:
    made = replace(VIT, image_heads=4, text_heads=2, image_quick_gelu=False, text_quick_gelu=False)
    torch.save(to_open_clip(model_of(made)), folder / "x.pt")
    model = model_of(made, seed=3)
    start_from(model, folder / "x.pt")
    assert torch.equal(model.image.proj, model_of(made).image.proj)


def test_a_config_can_t_overrule_openai_s_file(folder: Path) -> None:
    torch.save(openai_state(VIT), folder / "openai.pt")
    with pytest.raises(UserError, match="has QuickGELU"):
        start_from(model_of(replace(VIT, image_quick_gelu=False, text_quick_gelu=False)), folder / "openai.pt")


@pytest.mark.parametrize("format", ["diptych", "open_clip"])
def test_siglip_s_bias_travels_with_the_weights(format: str, folder: Path) -> None:
    state = {f"model.{name}": value for name, value in model_of(VIT).state_dict().items()}
    write_run(folder, state_dict=state | {"loss.logit_bias": torch.tensor(-9.7)})
    out = convert(folder, format, folder / "out")
    assert read(out).describe["logit_bias"] == torch.tensor(-9.7).item()
    model, loss = model_of(VIT, seed=3), SigLIPLoss()
    assert "the loss starts with the file's logit bias of -9.7" in start_from(model, out, None, loss)
    assert torch.equal(loss.logit_bias, torch.tensor(-9.7))
    notes = start_from(model, out, None, ContrastiveLoss())
    assert any("logit bias of -9.7 is SigLIP's and left out" in note for note in notes)
    again = convert(out, "open_clip", folder / "again")
    config = json.loads((again / "open_clip_config.json").read_text())["model_cfg"]
    assert config["init_logit_bias"] == torch.tensor(-9.7).item()


@pytest.mark.parametrize("format", ["openai", "huggingface"])
def test_formats_without_a_place_for_the_bias_say_so(
    format: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"model.{name}": value for name, value in model_of(VIT).state_dict().items()}
    write_run(folder, state_dict=state | {"loss.logit_bias": torch.tensor(-9.7)})
    convert(folder, format, folder / "out")
    assert "can't store SigLIP's logit bias" in caplog.text


def test_a_bare_state_dict_with_a_bias_is_read(folder: Path) -> None:
    write_open_clip(folder)
    state = to_open_clip(model_of(VIT)) | {"logit_bias": torch.tensor([-10.0])}
    assert torch.equal(from_open_clip(state, image_heads=1, text_heads=1).image.proj, model_of(VIT).image.proj)
    torch.save(state, folder / "x.pt")
    assert read(folder / "x.pt").describe["logit_bias"] == -10.0
