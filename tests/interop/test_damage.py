"""Truncated, wrong-shape and wrong-family files: which key, expected and found shape; damage is never a traceback."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interop_files import (
    RESNET,
    VIT,
    openai_state,
    scripted,
    write_huggingface,
    write_open_clip,
    write_openai,
    write_run,
    write_torchscript,
)
from safetensors.torch import load_file, save_file

from diptych.base.errors import UserError
from diptych.interop.files import plain_data, read_torch
from diptych.interop.formats import read
from diptych.model.load import load

TINY = replace(VIT, vocab_size=64)


def weights_file(write: Callable[..., Path], folder: Path) -> Path:
    path = write(folder, TINY)
    if path.is_file():
        return path
    return next(file for file in folder.rglob("*") if file.suffix in (".safetensors", ".ckpt"))


@pytest.mark.parametrize(
    "write",
    [write_openai, write_torchscript, write_open_clip, write_huggingface, write_run],
    ids=lambda f: f.__name__,
)
def test_a_file_cut_anywhere_is_refused(write: Callable[..., Path], folder: Path) -> None:
    file = weights_file(write, folder)
    whole = file.read_bytes()
    for part in (0, 1, 7, 100, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        file.write_bytes(whole[:part])
        with pytest.raises(UserError, match="is refused"):
            read(file)


@pytest.mark.parametrize("write", [write_openai, write_torchscript, write_open_clip], ids=lambda f: f.__name__)
def test_damaged_bytes_are_never_a_traceback(write: Callable[..., Path], folder: Path) -> None:
    file = weights_file(write, folder)
    whole = file.read_bytes()
    outcomes = []

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=8))
    def damage(changes: list[tuple[int, int]]) -> None:
        data = bytearray(whole)
        for place, value in changes:
            data[place] = value
        file.write_bytes(data)
        try:
            read(file).check()
            outcomes.append("read")
        except UserError:
            outcomes.append("refused")

    damage()
    assert outcomes.count("refused") > 30 and "read" in outcomes and len(outcomes) >= 60


OPENAI_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "lacks": (lambda s: s.pop("visual.ln_post.bias"), r"it lacks visual\.ln_post\.bias, which is \[16\] here"),
    "lacks what the rest hangs on": (lambda s: s.pop("text_projection"), "it lacks text_projection"),
    "has more": (
        lambda s: s.update({"visual.trunk.x": torch.ones(2, 3)}),
        r"the unknown key visual\.trunk\.x, \[2, 3\] there",
    ),
    "bias": (lambda s: s.update(logit_bias=torch.tensor(float("nan"))), "logit_bias is not one finite number"),
    "shape": (
        lambda s: s.update({"visual.proj": torch.ones(16, 13)}),
        r"visual\.proj is \[16, 13\] there and \[16, 12\] here",
    ),
    "flat": (
        lambda s: s.update(positional_embedding=torch.ones(320)),
        r"positional_embedding is \[320\] there and has 2 dimensions here",
    ),
    "no square": (
        lambda s: s.update({"visual.positional_embedding": torch.ones(16, 16)}),
        "has 16 rows there, not a square grid plus one",
    ),
    "whole numbers": (
        lambda s: s.update({"ln_final.bias": torch.ones(16, dtype=torch.int32)}),
        r"ln_final\.bias holds torch\.int32",
    ),
    "no tensor": (lambda s: s.update({"ln_final.bias": [1, 2]}), "holds a list under 'ln_final.bias', not a tensor"),
}


@pytest.mark.parametrize("fault", OPENAI_FAULTS)
def test_which_key_of_openai_s_does_not_fit(fault: str, folder: Path) -> None:
    change, sentence = OPENAI_FAULTS[fault]
    state: dict[str, Any] = openai_state(TINY)
    change(state)
    torch.save(state, folder / "x.pt")
    with pytest.raises(UserError, match=sentence):
        read(folder / "x.pt").check()


def test_which_key_of_a_resnet_does_not_fit(folder: Path) -> None:
    state = openai_state(RESNET)
    torch.save(state | {"visual.layer2.1.bn1.running_mean": torch.ones(3)}, folder / "x.pt")
    with pytest.raises(UserError, match=r"visual\.layer2\.1\.bn1\.running_mean is \[3\] there and \[8\] here"):
        read(folder / "x.pt").check()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda s: s.pop("vision_model.pre_layrnorm.bias"),
            r"lacks vision_model\.pre_layrnorm\.bias, which is",
        ),
        (lambda s: s.update({"text_model.extra": torch.ones(1)}), r"the unknown key text_model\.extra"),
        (
            lambda s: s.update({"text_model.encoder.layers.1.self_attn.k_proj.weight": torch.ones(16, 8)}),
            r"text_model\.encoder\.layers\.1\.self_attn\.k_proj\.weight is \[16, 8\] there and \[16, 16\] here",
        ),
        (
            lambda s: s.update({"visual_projection.weight": torch.ones(16, 12)}),
            r"visual_projection\.weight is \[16, 12\] there and \[12, 16\] here",
        ),
    ],
)
def test_which_key_of_hugging_face_s_does_not_fit(change: Callable[..., Any], sentence: str, folder: Path) -> None:
    write_huggingface(folder, TINY)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=sentence):
        read(folder)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model_type", "siglip", "model_type=siglip: only clip is supported"),
        ("text_config.hidden_act", "relu", "text_config.hidden_act=relu: use one of quick_gelu, gelu"),
        ("text_config.intermediate_size", 99, "intermediate_size=99"),
        ("text_config.eos_token_id", 5, "eos_token_id=5: here it is always the highest id"),
        ("text_config.layer_norm_eps", 1e-6, "layer_norm_eps=1e-06"),
        ("vision_config.num_channels", 1, "images that aren't square or not RGB"),
        ("vision_config.num_hidden_layers", 10**9, "describes 1000000000 layers"),
        ("vision_config.hidden_size", "wide", "vision_config.hidden_size is 'wide', not a positive integer"),
        ("vision_config.patch_size", 0, "vision_config.patch_size is 0, not a positive integer"),
        ("vision_config", [1], "its vision_config is not a mapping"),
        ("text_config.num_attention_heads", 7, "can't be shared by 7 heads"),
        ("projection_dim", 13, r"visual_projection\.weight is \[12, 16\] there and \[13, 16\] here"),
    ],
)
def test_a_config_of_hugging_face_s_that_towers_here_can_t_be(
    key: str, value: object, sentence: str, folder: Path
) -> None:
    write_huggingface(folder, TINY)
    _change_json(folder / "config.json", key, value)
    with pytest.raises(UserError, match=sentence):
        read(folder)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model_cfg.embed_dim", 13, "says that embed_dim is 13, and the weights beside it have 12"),
        ("model_cfg.vision_cfg.image_size", 32, "image_size is 32, and the weights beside it have 16"),
        (
            "model_cfg.vision_cfg.image_size",
            [16, 32],
            r"=\[16, 32\]: our towers only support square images",
        ),
        ("model_cfg.vision_cfg.qk_norm", True, "vision_cfg.qk_norm=True, which no tower of ours supports"),
        ("model_cfg.vision_cfg.timm_model_name", "vit", "vision_cfg.timm_model_name=vit"),
        ("model_cfg.text_cfg.hf_model_name", "roberta", "text_cfg.hf_model_name=roberta"),
        ("model_cfg.text_cfg.mlp_ratio", 3.0, "text_cfg.mlp_ratio=3.0"),
        ("model_cfg.text_cfg.heads", 0, "must be positive integers"),
        ("model_cfg.text_cfg", 7, "its text_cfg is not a mapping"),
        ("model_cfg", [], "not a mapping"),
        ("preprocess_cfg.mean", 0.5, "three numbers|no description"),
        ("preprocess_cfg.std", ["a", "b", "c"], "three numbers"),
    ],
)
def test_a_config_of_open_clip_s_that_does_not_fit(key: str, value: object, sentence: str, folder: Path) -> None:
    write_open_clip(folder, TINY)
    _change_json(folder / "open_clip_config.json", key, value)
    with pytest.raises(UserError, match=sentence):
        read(folder).check()


def _change_json(file: Path, key: str, value: object) -> None:
    content = json.loads(file.read_text())
    *path, last = key.split(".")
    node = content
    for part in path:
        node = node[part]
    node[last] = value
    file.write_text(json.dumps(content))


def test_other_families_and_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    other = {"bert.encoder.layer.0.weight": torch.ones(2), "bert.pooler.weight": torch.ones(2)}
    save_file(other, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"is not a CLIP of a known format: it has the tensors bert\.encoder"):
        read(folder / "model.safetensors")
    torch.jit.save(scripted({"fc.weight": torch.ones(2, 2)}), folder / "resnet.pt")
    with pytest.raises(UserError, match=r"is not a CLIP of a known format: it has the tensors fc\.weight"):
        read(folder / "resnet.pt")
    torch.save([torch.ones(2)], folder / "list.pt")
    with pytest.raises(UserError, match="it holds a list, not a state dict"):
        read(folder / "list.pt")
    with pytest.raises(UserError, match=r"holds no model\. .* has checkpoints/last\.ckpt, config\.yaml with"):
        read(folder)
    with pytest.raises(UserError, match="does not exist: give a run's folder"):
        read(tmp_path / "nothing")
    write_huggingface(folder, TINY)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=re.escape(f"{folder / 'config.json'} is missing")):
        read(folder / "model.safetensors")


def test_another_vocabulary_gets_no_tokenizer_of_openai_s(folder: Path) -> None:
    with pytest.raises(UserError, match="was trained with another vocabulary: it has 64 ids, OpenAI's 49408"):
        load(write_openai(folder, TINY))


def test_a_pickle_that_takes_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "a.pt", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, b"\x80\x02\x85." if name.endswith("data.pkl") else whole.read(name))
    with pytest.raises(UserError, match="not a whole file of plain tensors"):
        read_torch(tmp_path / "a.pt")


def test_a_description_that_holds_itself_ends_at_its_parts(tmp_path: Path) -> None:
    endless: dict[str, object] = dict.fromkeys(map(str, range(10**5)))
    endless["0"] = endless
    with pytest.raises(UserError, match="more than 10,000 parts"):
        plain_data(endless, tmp_path)
