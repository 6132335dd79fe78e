from collections.abc import Callable
from typing import Any

import pytest
import torch

from diptych.base.errors import UserError
from diptych.towers.clip import CLIP

Build = Callable[..., CLIP]

# Parameters of OpenAI's released weights, embedding size and the text Transformer's width and heads.
RELEASED = {
    "rn50": (102_007_137, 1024, 512, 8),
    "rn101": (119_688_033, 512, 512, 8),
    "rn50x4": (178_300_601, 640, 640, 10),
    "rn50x16": (290_979_217, 768, 768, 12),
    "rn50x64": (623_258_305, 1024, 1024, 16),
    "vit_b32": (151_277_313, 512, 512, 8),
    "vit_b16": (149_620_737, 512, 512, 8),
    "vit_l14": (427_616_513, 768, 768, 12),
    "vit_l14_336": (427_944_193, 768, 768, 12),
}
SMALL = {"rn_tiny": 868744, "vit_tiny": 840_960}  # parameters of the image tower


def openai_names(model: CLIP) -> dict[str, tuple[int, ...]]:
    """Names as OpenAI has them, and shapes."""
    shapes = {}
    for name, value in model.state_dict().items():
        shapes[name.replace("image.", "visual.", 1).removeprefix("text.")] = tuple(value.shape)
    return shapes


@pytest.mark.parametrize("name", RELEASED)
def test_the_papers_models_have_the_released_size(build: Build, name: str) -> None:
    model: Any = build(name, device="meta")
    parameters, embed_dim, width, heads = RELEASED[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.image.embed_dim == model.text.embed_dim == embed_dim
    assert model.text.token_embedding.weight.shape == (49408, width)
    assert model.text.transformer.resblocks[0].attn.heads == heads


@pytest.mark.parametrize("name", SMALL)
def test_the_small_models_stay_small(build: Build, name: str) -> None:
    model = build(name, device="meta")
    assert sum(parameter.numel() for parameter in model.image.parameters()) == SMALL[name]


def test_vit_names_and_shapes_are_openais(build: Build) -> None:
    block = {
        "attn.in_proj_weight": (3, 1),
        "attn.in_proj_bias": (3,),
        "attn.out_proj.weight": (1, 1),
        "attn.out_proj.bias": (1,),
        "ln_1.weight": (1,),
        "ln_1.bias": (1,),
        "mlp.c_fc.weight": (4, 1),
        "mlp.c_fc.bias": (4,),
        "mlp.c_proj.weight": (1, 4),
        "mlp.c_proj.bias": (1,),
        "ln_2.weight": (1,),
        "ln_2.bias": (1,),
    }
    expected: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "text_projection": (512, 512),
        "positional_embedding": (77, 512),
        "token_embedding.weight": (49408, 512),
        "ln_final.weight": (512,),
        "ln_final.bias": (512,),
        "visual.class_embedding": (768,),
        "visual.positional_embedding": (50, 768),
        "visual.proj": (768, 512),
        "visual.conv1.weight": (768, 3, 32, 32),
    }
    expected |= {f"visual.ln_{end}.{kind}": (768,) for end in ("pre", "post") for kind in ("weight", "bias")}
    for prefix, width in (("", 512), ("visual.", 768)):
        for layer in range(12):
            for name, shape in block.items():
                key = f"{prefix}transformer.resblocks.{layer}.{name}"
                expected[key] = tuple(side * width for side in shape)
    assert openai_names(build("vit_b32", device="meta")) == expected


def test_resnet_names_and_shapes_are_openais(build: Build) -> None:
    names = {k: v for k, v in openai_names(build("rn50", device="meta")).items() if k.startswith("visual.")}
    convolutions = {
        "conv1.weight": (32, 3, 3, 3),
        "conv2.weight": (32, 32, 3, 3),
        "conv3.weight": (64, 32, 3, 3),
    }
    norms = {"bn1": 32, "bn2": 32, "bn3": 64}
    channels = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        planes = 64 * 2**stage
        for block in range(depth):
            prefix = f"layer{stage + 1}.{block}."
            convolutions[prefix + "conv1.weight"] = (planes, channels, 1, 1)
            convolutions[prefix + "conv2.weight"] = (planes, planes, 3, 3)
            convolutions[prefix + "conv3.weight"] = (4 * planes, planes, 1, 1)
            norms |= {prefix + "bn1": planes, prefix + "bn2": planes, prefix + "bn3": 4 * planes}
            if block == 0:
                convolutions[prefix + "downsample.0.weight"] = (4 * planes, channels, 1, 1)
                norms[prefix + "downsample.1"] = 4 * planes
            channels = 4 * planes
    expected: dict[str, tuple[int, ...]] = dict(convolutions)
    for name, size in norms.items():
        expected |= {f"{name}.{kind}": (size,) for kind in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.num_batches_tracked"] = ()
    expected["attnpool.positional_embedding"] = (50, 2048)
    for letter, out in (("q", 2048), ("k", 2048), ("v", 2048), ("c", 1024)):
        expected |= {f"attnpool.{letter}_proj.weight": (out, 2048), f"attnpool.{letter}_proj.bias": (out,)}
    assert names == {f"visual.{name}": shape for name, shape in expected.items()}


@pytest.mark.parametrize("name", [*RELEASED, *SMALL])
@pytest.mark.parametrize("text", ["transformer", "transformer_tiny", "cbow"])
def test_every_text_tower_fits_every_model(build: Build, name: str, text: str) -> None:
    model = build(name, f"model/text={text}", device="meta")
    assert model.text.embed_dim == model.image.embed_dim
    assert model.text.context_length == 77


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("text", ["transformer_tiny", "cbow"])
def test_both_towers_end_in_one_space_at_unit_length(build: Build, name: str, text: str) -> None:
    model = build(name, f"model/text={text}")
    images, tokens = torch.randn(3, 3, 32, 32), torch.tensor([[49406, 320, 49407, 0]] * 3)
    image, words, scale = model(images, tokens)
    assert image.shape == words.shape == (3, 256)
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(words.norm(dim=-1), torch.ones(3))
    assert scale.item() == pytest.approx(1 / 0.07)
    torch.testing.assert_close(model.encode_text(tokens, normalize=True), words)
    assert not torch.allclose(model.encode_text(tokens), words)
    (image @ words.T * scale).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unit_length_is_float32_under_autocast(build: Build) -> None:
    model = build("rn_tiny")
    with torch.autocast("cpu", torch.bfloat16):
        image, text, scale = model(torch.randn(2, 3, 32, 32), torch.tensor([[49406, 49407]] * 2))
    assert image.dtype == text.dtype == scale.dtype == torch.float32
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(2))


def test_towers_that_disagree_are_refused(build: Build) -> None:
    with pytest.raises(Exception, match="256 dimensions and the text tower 128") as caught:
        build("rn_tiny", "model.text.embed_dim=128")
    assert isinstance(caught.value.__cause__ or caught.value, UserError)
