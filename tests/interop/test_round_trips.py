"""From each format to ours and back, every tensor and its type equal, bit for bit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interop_files import (
    RESNET,
    VIT,
    huggingface_state,
    mixed,
    model_of,
    openai_state,
    write_huggingface,
    write_open_clip,
    write_openai,
    write_run,
    write_torchscript,
)
from safetensors.torch import load_file
from torch import Tensor

import diptych
from diptych.base.errors import UserError
from diptych.interop import from_open_clip, openai, to_open_clip
from diptych.interop.architecture import Architecture, architecture_of, infer
from diptych.interop.formats import convert, read
from diptych.interop.heads import Hints

GELU = replace(VIT, image_quick_gelu=False, text_quick_gelu=False, image_heads=4, text_heads=2, mean=(0.5, 0.4, 0.3))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left
    )


def there_and_back(source: Path, format: str) -> Path:
    ours = convert(source, "diptych", source.parent / "ours")
    return convert(ours, format, source.parent / "back")


@pytest.mark.parametrize("architecture", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("write", [write_openai, write_torchscript])
def test_openai(folder: Path, architecture: Architecture, write: Callable[..., Path]) -> None:
    back = torch.load(there_and_back(write(folder, architecture), "openai"), weights_only=True)
    assert same(back, openai_state(architecture))
    assert {value.dtype for value in back.values()} >= {torch.float16, torch.float32, torch.int64}


def test_a_plain_state_dict_gains_no_keys_and_its_activation_is_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = openai_state(VIT, bookkeeping=False)
    torch.save(state, folder / "plain.pt")
    ours = convert(folder / "plain.pt", "diptych", folder / "ours", image_heads=1, text_heads=1)
    assert same(torch.load(convert(ours, "openai", folder / "back"), weights_only=True), state)
    assert "Assumed: QuickGELU as the activation" in caplog.text and "heads" not in caplog.text
    hints = Hints(quick_gelu=False, image_heads=1, text_heads=1)
    assert architecture_of(read(folder / "plain.pt", hints).model(), "x").text_quick_gelu is False


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "epoch_3.pt"])
@pytest.mark.parametrize("architecture", [VIT, GELU, RESNET], ids=["vit", "gelu", "resnet"])
def test_open_clip(folder: Path, architecture: Architecture, name: str) -> None:
    write_open_clip(folder, architecture, name)
    back = there_and_back(folder / name, "open_clip")
    assert same(load_file(back / "open_clip_model.safetensors"), to_open_clip(model_of(architecture)))
    before, after = (json.loads((f / "open_clip_config.json").read_text()) for f in (folder, back))
    assert before["model_cfg"] == after["model_cfg"]
    assert before["preprocess_cfg"].items() <= after["preprocess_cfg"].items()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "architecture", [VIT, GELU, replace(VIT, text_quick_gelu=False)], ids=["quick", "gelu", "both"]
)
def test_huggingface(folder: Path, architecture: Architecture, name: str) -> None:
    write_huggingface(folder, architecture, name)
    back = there_and_back(folder, "huggingface")
    expected = huggingface_state(model_of(architecture).state_dict())
    if name.endswith(".bin"):
        expected["text_model.embeddings.position_ids"] = torch.arange(architecture.context_length)[None]
    assert same(load_file(back / "model.safetensors"), expected)
    assert json.loads((folder / "config.json").read_text()) == json.loads((back / "config.json").read_text())
    assert json.loads((back / "preprocessor_config.json").read_text())["image_mean"] == list(architecture.mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("format", ["diptych", "openai", "open_clip", "huggingface"])
def test_our_runs_in_any_precision(folder: Path, format: str, dtype: torch.dtype) -> None:
    state = {f"model.{name}": value.to(dtype) for name, value in model_of(VIT).state_dict().items()}
    write_run(folder, state_dict=state)
    out = convert(folder, format, folder / "out")
    back = read(convert(out, "diptych", folder / "back"))
    assert same({f"model.{name}": value for name, value in back.state.items()}, state)
    if format == "diptych":
        assert back.step == 5 and back.describe["name"] == "run"


def test_features_are_the_same_in_every_format(folder: Path) -> None:
    """Through the public door, activation, heads and colours included."""
    torch.manual_seed(1)
    images, tokens = torch.randn(2, 3, 16, 16), diptych.Tokenizer(context_length=20)(["a cat", "two red dogs"])
    expected = model_of(GELU)(images, tokens)
    write_run(folder, GELU)
    for number, format in enumerate(("diptych", "open_clip", "huggingface", "diptych")):
        folder = convert(folder, format, folder.parent / f"{number}")
        clip = diptych.load(folder)
        assert clip.model.mean == GELU.mean and clip.tokenizer.context_length == 20
        for ours, theirs in zip(clip.model(images, tokens), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_state_dicts_in_memory() -> None:
    model = diptych.create_model("vit_tiny", image__layers=1, text__layers=1)
    state = to_open_clip(model)
    assert {"visual.proj", "text_projection", "logit_scale", "positional_embedding"} <= state.keys()
    config = {"vision_cfg": {"head_width": 32}, "text_cfg": {"heads": 4}, "quick_gelu": True}
    again = from_open_clip({f"module.{name}": value for name, value in state.items()}, config)
    assert same(again.state_dict(), model.state_dict()) and not again.training
    assert again.image.transformer.resblocks[0].attn.heads == 4
    assert again.logit_scale.data_ptr() != model.logit_scale.data_ptr()
    assert from_open_clip(state, None, False, 4, 4).text.transformer.resblocks[0].mlp.gelu.approximate == "none"


@pytest.mark.parametrize(
    ("model", "format", "sentence"),
    [
        ("rn_tiny", "open_clip", "can't store a ResNet of basic blocks .* use format=diptych"),
        ("rn_tiny", "huggingface", "can't store a ResNet of basic blocks"),
        (
            "vit_tiny",
            "openai",
            "no image_heads: its readers assume 2, and this model has 4: use format=open_clip",
        ),
        ("gelu", "openai", "no text_quick_gelu: its readers assume True, and this model has False"),
        ("colours", "openai", "has no mean: its readers assume \\(0\\.48"),
        ("resnet", "huggingface", "has no ResNet tower: use format=open_clip"),
        ("two", "open_clip", "one activation for both towers, and this model has two"),
        ("vocabulary", "huggingface", "OpenAI's 49,408 ids and this model has 99"),
        ("cbow", "open_clip", "can't store a CBOW text tower"),
        ("vit", "onnx", "format=onnx is unknown: use one of diptych, openai, open_clip, huggingface"),
    ],
)
def test_what_a_format_cant_say_is_refused(folder: Path, model: str, format: str, sentence: str) -> None:
    kinds = {
        "vit": VIT,
        "gelu": replace(VIT, text_quick_gelu=False),
        "colours": replace(VIT, mean=(0.5, 0.5, 0.5)),
        "resnet": replace(RESNET, vocab_size=49408),
        "two": replace(VIT, text_quick_gelu=False),
        "vocabulary": replace(VIT, vocab_size=99),
    }
    if model in kinds:
        config, built = kinds[model].config(), model_of(kinds[model])
    else:
        config = SMALL_ONES[model]
        built = diptych.building.build.build(config)
    state = {f"model.{name}": value for name, value in built.state_dict().items()}
    write_run(folder, state_dict=state, diptych={"model": config})
    with pytest.raises(UserError, match=sentence):
        convert(folder, format, folder / "out")
    assert not (folder / "out").exists() and not list(folder.glob(".*"))


SMALL_ONES = {
    "vit_tiny": replace(VIT, image_width=128, image_heads=4).config(),
    "rn_tiny": {
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
        "text": VIT.config()["text"],
    },
    "cbow": VIT.config()
    | {"text": {"_target_": "diptych.towers.text.CBOW", "embed_dim": 12, "width": 8, "vocab_size": 99}},
}


@pytest.mark.parametrize("format", ["diptych", "openai", "open_clip", "huggingface"])
def test_two_exports_of_one_run_are_the_same_bytes(folder: Path, format: str) -> None:
    write_run(folder)
    exports = [convert(folder, format, folder.parent / "exports" / each) for each in ("one", "two")]
    files = [
        sorted(file for file in (out.rglob("*") if out.is_dir() else [out]) if file.is_file()) for out in exports
    ]
    assert len(files[0]) == len(files[1]) > 0
    for one, two in zip(*files, strict=True):
        assert one.is_dir() or one.read_bytes() == two.read_bytes(), one.name


def test_nothing_is_written_over(folder: Path) -> None:
    write_run(folder)
    taken = folder / "taken"
    taken.write_text("mine")
    for out in (taken, folder / "checkpoints"):
        with pytest.raises(UserError, match="exists and is not overwritten"):
            convert(folder, "openai", out)
    (folder / "link").symlink_to(taken)
    with pytest.raises(UserError, match="exists and is not overwritten"):
        convert(folder, "openai", folder / "link")
    assert taken.read_text() == "mine"


@pytest.mark.slow
def test_mixed_types_stay_mixed_between_any_two_formats(folder: Path) -> None:
    state = mixed(to_open_clip(model_of(VIT)))
    torch.save(state, folder / "a.pt")
    for first, second in itertools.permutations(["open_clip", "huggingface", "diptych"], 2):
        one = convert(folder / "a.pt", first, folder / f"{first}-{second}-1", None, None, True, 1, 1)
        two = convert(one, second, folder / f"{first}-{second}-2")
        back = convert(two, "openai", folder / f"{first}-{second}.pt")
        numbers = ("input_resolution", "context_length", "vocab_size")
        found = torch.load(back, weights_only=True)
        assert same({key: value for key, value in found.items() if key not in numbers}, state)


@pytest.mark.parametrize(
    ("name", "overrides", "formats"),
    [
        ("vit_b32", {}, {"open_clip", "huggingface", "openai"}),
        ("rn50", {}, {"open_clip", "openai"}),
        ("vit_tiny", {}, {"open_clip", "huggingface"}),
        ("rn_tiny", {}, set()),
        ("vit_b16_siglip", {}, set()),
        ("vit_tiny", {"text__vocab_size": 99}, {"open_clip"}),
    ],
)
def test_the_documented_table_of_what_exports(name: str, overrides: dict[str, int], formats: set[str]) -> None:
    """docs/interop.md, "Which of our models export"; vocabularies are refused where a tokenizer is written."""
    with torch.device("meta"):
        model = diptych.create_model(name, **overrides)
    state = model.state_dict()
    found = set()
    for format in ("open_clip", "huggingface", "openai"):
        try:
            architecture = architecture_of(model, format)
            if format == "openai":
                openai.check_readers(architecture, infer(state, "x"))
            elif format == "huggingface" and (architecture.patch_size is None or architecture.vocab_size != 49408):
                continue
            found.add(format)
        except UserError:
            continue
    assert found == formats
