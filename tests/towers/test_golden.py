"""Our towers give what open_clip's classes give, in float64, down to gradients and running statistics.

The golden files were written by tests/golden/make_towers_golden.py, whose rules for weights and input are used here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden.make_towers_golden import (
    CONTEXT,
    EMBED,
    HERE,
    IMAGE,
    LARGER,
    TOKENS,
    VOCABULARY,
    digest,
    objective,
    pictures,
    weights,
)
from torch import nn

from diptych.interop import to_open_clip
from diptych.interop.architecture import ours_from_openai, to_openai
from diptych.towers.clip import CLIP
from diptych.towers.resnet import ModifiedResNet
from diptych.towers.text import TextTransformer
from diptych.towers.transformer import QuickGELU
from diptych.towers.vit import VisionTransformer

GOLDEN = json.loads((HERE / "towers.json").read_text())["cases"]
OPENAI = json.loads(gzip.decompress((HERE / "parameters.json.gz").read_bytes()))["models"]
CASES = [
    f"{kind} {activation} {mode}"
    for kind in IMAGE
    for activation in ("quickgelu", "gelu")
    for mode in ("eval", "train")
]


def small(kind: str, activation: nn.Module) -> Any:
    """The golden file's model, of ours, with the rule's weights."""
    image: nn.Module
    if kind == "vit":
        image = VisionTransformer(32, 8, width=64, layers=2, embed_dim=EMBED, heads=4, activation=activation)
    else:
        image = ModifiedResNet(64, [1, 2, 1, 1], width=8, embed_dim=EMBED, heads=4)
    text = TextTransformer(EMBED, 32, 2, CONTEXT, VOCABULARY, heads=4, activation=activation)
    model = CLIP(image, text).double()
    shapes = {name: tuple(value.shape) for name, value in to_open_clip(model).items()}
    model.load_state_dict(ours_from_openai(weights(shapes)))
    return model


def expected(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_outputs_gradients_and_statistics_are_open_clips(name: str) -> None:
    kind, activation, mode = name.split()
    golden = GOLDEN[name]
    model = small(kind, QuickGELU() if activation == "quickgelu" else nn.GELU()).train(mode == "train")
    image, text, scale = model(pictures(IMAGE[kind]["image_size"]), torch.tensor(TOKENS))
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(scale * image @ text.T, expected(golden["logits"]), **close)
    objective(image, text, scale).backward()
    gradients = {to_openai(key): digest(value.grad) for key, value in model.named_parameters()}
    statistics = {key: digest(value) for key, value in to_open_clip(model).items() if ".running_" in key}
    assert gradients == pytest.approx(golden["gradients"], rel=1e-9, abs=1e-9)
    assert statistics == pytest.approx(golden["statistics"], rel=1e-11, abs=1e-11)
    model = small(kind, QuickGELU() if activation == "quickgelu" else nn.GELU()).train(mode == "train")
    with torch.no_grad():
        features = model.encode_image(pictures(IMAGE[kind]["image_size"]))
        torch.testing.assert_close(features, expected(golden["image"]), **close)
        torch.testing.assert_close(model.encode_text(torch.tensor(TOKENS)), expected(golden["text"]), **close)


@pytest.mark.parametrize("kind", IMAGE)
def test_float32_keeps_five_digits(kind: str) -> None:
    model, golden = small(kind, QuickGELU()).float().eval(), GOLDEN[f"{kind} quickgelu eval"]
    with torch.no_grad():
        image = model.encode_image(pictures(IMAGE[kind]["image_size"]).float()).double()
        text = model.encode_text(torch.tensor(TOKENS)).double()
    for features, reference in ((image, expected(golden["image"])), (text, expected(golden["text"]))):
        assert (features - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_the_golden_cases_differ() -> None:
    """A model that took no notice of its mode or its activation would not pass."""
    for kind in IMAGE:
        quick, plain = (expected(GOLDEN[f"{kind} {each} eval"]["text"]) for each in ("quickgelu", "gelu"))
        assert (quick - plain).abs().max() > 1e-3
    evaluated, trained = (expected(GOLDEN[f"resnet gelu {mode}"]["image"]) for mode in ("eval", "train"))
    assert (evaluated - trained).abs().max() > 0.1


def test_positions_are_resampled_as_open_clip_does() -> None:
    model = small("vit", QuickGELU()).eval()
    model.any_size = True  # as in a training
    with torch.no_grad():
        features = model.encode_image(pictures(LARGER))
    torch.testing.assert_close(features, expected(GOLDEN["vit larger"]["image"]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", OPENAI)
def test_names_shapes_and_order_are_openais(build: Callable[..., CLIP], name: str) -> None:
    model = build(name, device="meta")
    ours = {key: list(value.shape) for key, value in to_open_clip(model).items()}
    assert ours == OPENAI[name]
    counted = sum(torch.Size(shape).numel() for key, shape in OPENAI[name].items() if is_parameter(key))
    assert sum(parameter.numel() for parameter in model.parameters()) == counted


def is_parameter(key: str) -> bool:
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_all_of_the_papers_models_are_listed() -> None:
    assert len(OPENAI) == 9
