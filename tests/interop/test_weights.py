"""Other image sizes and contexts, names, and what names and shapes say."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from interop_files import RESNET, VIT, huggingface_state, model_of, write_open_clip, write_run

import diptych
from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.interop import architecture as names
from diptych.interop import to_open_clip
from diptych.interop.architecture import architecture_of, infer
from diptych.interop.formats import read
from diptych.interop.heads import NO_HINTS, with_heads
from diptych.interop.huggingface import names as huggingface_names
from diptych.interop.weights import Weights, skeleton
from diptych.towers.layers import resize_positions

LONG = ("rn101", "rn50x4", "rn50x16", "rn50x64", "vit_b16", "vit_l14", "vit_l14_336")
PAPER = ["rn50", "vit_b32", *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]


@given(st.from_regex(r"(image|text)\.[a-z0-9_.]{1,30}|logit_scale", fullmatch=True))
def test_names_go_there_and_back(name: str) -> None:
    if not name.startswith(("text.visual.", "text.text.")) and name not in ("text.logit_scale", "text.logit_bias"):
        assert names.to_ours(names.to_openai(name)) == name


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_models_are_read_off_their_shapes(name: str) -> None:
    with torch.device("meta"):
        model = diptych.create_model(name)
    state = model.state_dict()
    back = names.ours_from_openai(to_open_clip(model))
    assert back.keys() == state.keys()
    found = with_heads(infer(back, "x"), NO_HINTS, "x")
    assert found == with_heads(infer(back, "x"), NO_HINTS, "x", by_openai=True)
    assert found == architecture_of(model, "x")
    built = skeleton(found.config(), state, "x").state_dict()
    assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in state.items()}
    if name.startswith("vit"):
        theirs = [part for key in state for part in huggingface_names(key)]
        assert len(set(theirs)) == len(theirs) == len(huggingface_state(state))
        assert set(theirs) == huggingface_state(state).keys()


def test_the_small_models_that_other_formats_have_words_for() -> None:
    with torch.device("meta"):
        vit, resnet = diptych.create_model("vit_tiny"), diptych.create_model("rn_tiny")
    assert architecture_of(vit, "open_clip").image_heads == 4
    with pytest.raises(UserError, match="use format=diptych"):
        architecture_of(resnet, "open_clip")


@pytest.mark.parametrize("variant", [{"norm_eps": 1e-6}, {"registers": 2}, {"pool": "attention"}])
def test_a_variant_of_a_tower_is_not_exported_as_openais(variant: dict[str, object]) -> None:
    config = VIT.config()
    with torch.device("meta"):
        model = build(config | {"image": config["image"] | variant})
    with pytest.raises(UserError, match="use format=diptych"):
        architecture_of(model, "open_clip")


def test_positions_without_a_class_token_are_resampled(folder: Path) -> None:
    config = VIT.config()
    config = config | {"image": config["image"] | {"pool": "attention"}}
    with torch.device("meta"):
        state = build(config).state_dict()
    state = {key: torch.randn(value.shape) for key, value in state.items()}
    resized = Weights(config, state, folder).resized(image_size=24)
    before = state["image.positional_embedding"]
    grid = math.isqrt(len(before))
    after = resized.state["image.positional_embedding"]
    assert torch.equal(after, resize_positions(before, grid, (6, 6))) and len(after) == 36
    resized.check()


def test_another_image_size_resamples_the_positions_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_open_clip(folder)
    clip = diptych.load(folder, image_size=24)
    assert clip.model.image_size == 24 and clip.preprocess(_picture()).shape == (3, 24, 24)
    assert clip.model.image.positional_embedding.shape == (37, 16)
    assert caplog.messages == [
        f"{folder / 'open_clip_model.safetensors'}: visual.positional_embedding resampled (bicubic)"
        " from 17 to 37 positions"
    ]
    # The tower resamples by itself when it meets another size: loading so gives the same features.
    images = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(clip.model.encode_image(images), model_of(VIT).image(images))
    caplog.clear()
    assert diptych.load(folder, image_size=16).model.image_size == 16 and not caplog.messages
    with pytest.raises(UserError, match="image_size=18 is not a multiple of patch_size=4"):
        diptych.load(folder, image_size=18)


def test_another_image_size_of_a_resnet(folder: Path) -> None:
    write_run(folder, replace(RESNET, vocab_size=49408))
    clip = diptych.load(folder, image_size=96)
    assert clip.model.image.attnpool.positional_embedding.shape == (10, 128)
    images = torch.randn(2, 3, 96, 96)
    expected = model_of(replace(RESNET, vocab_size=49408)).image(images)
    torch.testing.assert_close(clip.model.encode_image(images), expected)


def test_another_context_cuts_or_resamples(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(folder)
    whole = read(folder).state["text.positional_embedding"]
    short = diptych.load(folder, context_length=8)
    assert torch.equal(short.model.text.positional_embedding, whole[:8])
    tokens = short.tokenizer("a cat")
    assert tokens.shape == (1, 8)
    assert torch.equal(short.model.encode_text(tokens), model_of(VIT).encode_text(tokens))  # causal: nothing is lost
    long = diptych.load(folder, context_length=40)
    expected = F.interpolate(whole.T[None], size=40, mode="linear", align_corners=False)[0].T
    assert torch.equal(long.model.text.positional_embedding, expected) and long.tokenizer("a").shape == (1, 40)
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "text.positional_embedding cut from 20 to 8 positions",
        "text.positional_embedding resampled (linear) from 20 to 40 positions",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_positions_keep_their_type() -> None:
    state = {name: value.half() for name, value in model_of(VIT).state_dict().items()}
    resized = Weights(VIT.config(), state, Path("x")).resized(image_size=32, context_length=10)
    assert {value.dtype for value in resized.state.values()} == {torch.float16}
    assert resized.check().image_size == 32


def _picture() -> object:
    from PIL import Image

    return Image.new("RGB", (30, 40), (200, 10, 10))


def test_a_vocabulary_of_ones_own_is_not_exported_as_openais() -> None:
    config = VIT.config()
    with torch.device("meta"):
        model = build(config | {"text": config["text"] | {"vocabulary": "words.txt"}})
    with pytest.raises(UserError, match="a custom vocabulary: use format=diptych"):
        architecture_of(model, "huggingface")
