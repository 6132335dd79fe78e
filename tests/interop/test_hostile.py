"""Untrusted files: each is refused in one sentence, and a sentinel file shows that nothing in it ran."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interop_files import VIT, model_of, openai_state, scripted, write_open_clip, write_openai, write_run
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.interop import to_open_clip
from diptych.model.load import load


class Malice:
    """Unpickled in the usual way, it writes the sentinel."""

    def __init__(self, sentinel: Path, call: str = "os.system") -> None:
        self.sentinel, self.call = sentinel, call

    def __reduce__(self) -> tuple:
        if self.call == "builtins.eval":
            return builtins.eval, (f"open({str(self.sentinel)!r}, 'w').close()",)
        return os.system, (f"touch {self.sentinel}",)


class Script(nn.Module):
    """In a TorchScript archive, its __setstate__ writes the sentinel as soon as torch.jit opens it."""

    def __init__(self, sentinel: str) -> None:
        super().__init__()
        self.sentinel = sentinel
        self.weight = torch.ones(1)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.sentinel, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.sentinel, self.weight, self.training = state[0], state[1], state[2]
        torch.save(state[1], state[0])

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.sentinel)
        return x


def saved(value: Any, file: Path, **options: Any) -> Path:
    torch.save(value, file, **options)
    return file


def rezipped(
    source: Path, target: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return target


def with_entry(source: Path, target: Path, name: str, mode: int = 0) -> Path:
    rezipped(source, target, lambda _, data: data)
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with warnings.catch_warnings(), zipfile.ZipFile(target, "a") as archive:
        warnings.simplefilter("ignore")  # that a name is there twice is the point
        archive.writestr(entry, b"/etc/passwd")
    return target


def plain_pickle(folder: Path, sentinel: Path) -> Path:
    (folder / "x.pt").write_bytes(pickle.dumps(Malice(sentinel)))
    return folder / "x.pt"


def evaluating_pickle(folder: Path, sentinel: Path) -> Path:
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Malice(sentinel, "builtins.eval")}))
    return folder


def zip_pickle(folder: Path, sentinel: Path) -> Path:
    return saved(openai_state(VIT) | {"extra": Malice(sentinel)}, folder / "x.pt")


def legacy_pickle(folder: Path, sentinel: Path) -> Path:
    return saved({"a": Malice(sentinel)}, folder / "x.pt", _use_new_zipfile_serialization=False)


def torchscript_pickle(folder: Path, sentinel: Path) -> Path:
    torch.jit.save(scripted(openai_state(VIT)), folder / "x.pt")
    evil = pickle.dumps(Malice(sentinel), protocol=2)
    return rezipped(folder / "x.pt", folder / "y.pt", lambda name, data: evil if name.endswith("data.pkl") else data)


def torchscript_of_another(folder: Path, sentinel: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Script(str(sentinel))), folder / "x.pt")
    return folder / "x.pt"


def instantiator(folder: Path, sentinel: Path) -> Path:
    parameters = {"_instantiator": "os.system", "command": f"touch {sentinel}"}
    return write_run(folder, hyper_parameters=parameters)


def instantiator_on_top(folder: Path, sentinel: Path) -> Path:
    return write_run(folder, _instantiator="os.system")


def config_yaml(folder: Path, text: str) -> Path:
    save_file(model_of(VIT).state_dict(), folder / "model.safetensors")
    (folder / "config.yaml").write_text(text)
    return folder


def foreign_target(folder: Path, sentinel: Path) -> Path:
    return config_yaml(folder, f"model: {{_target_: os.system, command: touch {sentinel}}}")


def nested_target(folder: Path, sentinel: Path) -> Path:
    config = VIT.config()
    config["image"]["activation"] = {"_target_": "subprocess.run", "args": ["touch", str(sentinel)]}
    return config_yaml(folder, json.dumps({"model": config}))


def yaml_tag(folder: Path, sentinel: Path) -> Path:
    return config_yaml(folder, f"model: !!python/object/apply:os.system ['touch {sentinel}']")


def yaml_aliases(folder: Path, sentinel: Path) -> Path:
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)), "model: {x: *a39}"]
    return config_yaml(folder, "\n".join(lines))


def shared_parts(folder: Path, sentinel: Path) -> Path:
    part: list[Any] = []
    for _ in range(60):
        part = [part, part]
    return write_run(folder, diptych={"model": VIT.config() | {"mean": part}})


def endless_layers(folder: Path, sentinel: Path) -> Path:
    config = VIT.config()
    config["text"]["layers"] = 10**9
    return config_yaml(folder, json.dumps({"model": config}))


def enormous_width(folder: Path, sentinel: Path) -> Path:
    config = VIT.config()
    config["text"]["vocab_size"] = 10**13
    return config_yaml(folder, json.dumps({"model": config}))


def deep_json(folder: Path, sentinel: Path) -> Path:
    write_open_clip(folder)
    (folder / "open_clip_config.json").write_text("[" * 200_000)
    return folder


def header_of_terabytes(folder: Path, sentinel: Path) -> Path:
    header = json.dumps(
        {"visual.proj": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    ).encode()
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    return folder / "x.safetensors"


def header_without_end(folder: Path, sentinel: Path) -> Path:
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    return folder / "x.safetensors"


def overlapping_header(folder: Path, sentinel: Path) -> Path:
    part = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"visual.proj": part, "visual.conv1.weight": part}).encode()
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    return folder / "x.safetensors"


def expanded_tensor(folder: Path, sentinel: Path) -> Path:
    state = openai_state(VIT)
    return saved(state | {"token_embedding.weight": torch.zeros(1, 1).expand(10**13, 16)}, folder / "x.pt")


def legacy_promise(folder: Path, sentinel: Path) -> Path:
    saved({"a": torch.zeros(4)}, folder / "x.pt", _use_new_zipfile_serialization=False)
    data = (folder / "x.pt").read_bytes()
    place = data.index(b"K\x04N")  # the storage's length
    (folder / "x.pt").write_bytes(data[:place] + b"J" + struct.pack("<i", 2**31 - 1) + data[place + 2 :])
    return folder / "x.pt"


def zip_bomb(folder: Path, sentinel: Path) -> Path:
    big = b"\0" * 10_000_000
    change = lambda name, data: big if name.endswith("/data/0") else data  # noqa: E731
    return rezipped(write_openai(folder), folder / "x.pt", change, zipfile.ZIP_DEFLATED)


def zip_traversal(folder: Path, sentinel: Path) -> Path:
    return with_entry(write_openai(folder), folder / "x.pt", "openai/../../../etc/passwd")


def zip_absolute(folder: Path, sentinel: Path) -> Path:
    return with_entry(write_openai(folder), folder / "x.pt", "/etc/passwd")


def zip_symlink(folder: Path, sentinel: Path) -> Path:
    return with_entry(write_openai(folder), folder / "x.pt", "openai/data/9999", stat.S_IFLNK | 0o777)


def zip_twice(folder: Path, sentinel: Path) -> Path:
    return with_entry(write_openai(folder), folder / "x.pt", "openai/data/0")


def link_to_a_device(folder: Path, sentinel: Path) -> Path:
    (folder / "x.pt").symlink_to("/dev/zero")
    return folder / "x.pt"


def link_to_itself(folder: Path, sentinel: Path) -> Path:
    (folder / "x.pt").symlink_to(folder / "x.pt")
    return folder / "x.pt"


def meta_tensors(folder: Path, sentinel: Path) -> Path:
    return saved(openai_state(VIT) | {"visual.proj": torch.zeros(16, 12, device="meta")}, folder / "x.pt")


def sparse_tensors(folder: Path, sentinel: Path) -> Path:
    return saved(openai_state(VIT) | {"visual.proj": torch.zeros(16, 12).to_sparse()}, folder / "x.pt")


HOSTILE = {
    plain_pickle: r"a pickle that names (posix|os)\.system",
    evaluating_pickle: r"a pickle that names builtins\.eval",
    zip_pickle: r"not a whole file of plain tensors \(a pickle that names (posix|os)\.system",
    legacy_pickle: r"not a whole file of plain tensors \(a pickle that names (posix|os)\.system",
    torchscript_pickle: r"a TorchScript archive with a pickle that names (posix|os)\.system",
    torchscript_of_another: "is not a CLIP of a known format: it has no tensors",
    instantiator: r"it names 'os\.system' to be called",
    instantiator_on_top: r"it names 'os\.system' to be called",
    foreign_target: r"would build 'os\.system', which is no tower of ours",
    nested_target: r"would build 'subprocess\.run'",
    yaml_tag: "has the tag .*python/object",
    yaml_aliases: "has aliases",
    shared_parts: "its description has more than 10,000 parts",
    endless_layers: "describes 1000000000 layers and holds",
    enormous_width: r"text\.token_embedding\.weight is \[49408, 16\] there and \[10000000000000, 16\] here",
    deep_json: "is not a JSON object: maximum recursion depth",
    header_of_terabytes: "not a whole safetensors file",
    header_without_end: "not a whole safetensors file",
    overlapping_header: "not a whole safetensors file",
    expanded_tensor: r"its tensors promise 640,[\d,]+ bytes and hold",
    legacy_promise: "it promises 2,147,483,647 numbers in",
    zip_bomb: "is compressed, which torch's files never are",
    zip_traversal: r"its entry 'openai/\.\./\.\./\.\./etc/passwd' points outside",
    zip_absolute: "its entry '/etc/passwd' points outside",
    zip_symlink: "its entry 'openai/data/9999' points outside",
    zip_twice: "its entry 'openai/data/0' is there twice",
    link_to_a_device: "does not exist",
    link_to_itself: "does not exist",
    meta_tensors: r"visual\.proj is not a plain tensor",
    sparse_tensors: r"visual\.proj is not a plain tensor",
}


@pytest.mark.parametrize(("make", "sentence"), HOSTILE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_it_is_refused_and_nothing_runs(
    make: Callable[[Path, Path], Path], sentence: str, folder: Path, tmp_path: Path
) -> None:
    sentinel = tmp_path / "sentinel"
    path = make(folder, sentinel)
    with pytest.raises(UserError, match=sentence) as refused:
        load(path)
    assert not sentinel.exists() and "\n" not in str(refused.value)


def test_the_sentinels_work(folder: Path, tmp_path: Path) -> None:
    """Opened in the usual way, the same files do run their code: the tests above could fail."""
    sentinel = tmp_path / "sentinel"
    for make in (plain_pickle, evaluating_pickle):
        path = make(folder, sentinel)
        pickle.loads((path / "pytorch_model.bin" if path.is_dir() else path).read_bytes())
        assert sentinel.exists()
        sentinel.unlink()
    torch.load(zip_pickle(folder, sentinel), weights_only=False)
    assert sentinel.exists()
    sentinel.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(torchscript_of_another(folder, sentinel))
    assert sentinel.exists()


def test_weights_beside_code_are_read_and_the_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    """A CLIP in TorchScript with a part whose __setstate__ and forward write a file: only its tensors are taken."""
    sentinel = tmp_path / "sentinel"
    root = nn.Module()
    root.add_module("evil", Script(str(sentinel)))
    torch.jit.save(scripted(openai_state(VIT), root), folder / "x.pt")
    clip = load(folder / "x.pt")
    assert not sentinel.exists()
    assert torch.equal(clip.model.image.proj, openai_state(VIT)["visual.proj"].float())


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "diptych.commands.train.train",
        "diptych.towers.clip.os.system",
        "diptych.towers.clip.math.exp",
        "diptych.towers.clip.importlib.import_module",
        "diptych.towers.clip.torch.hub.load",
        "diptych.towers.clip.torch",
        "diptych.towers.clip.cast",
        "diptych.towers.clip.UserError",
        "diptych.towers.clip.nn.Module",
        "diptych.towers.clip._unit",
        "diptych.towers.clip.CLIP.load_state_dict",
        "diptych.towers.text.trim",
        "diptych.towers.text.Transformer",
        "diptych.towers.resnet.OrderedDict",
        "diptych.towers.clip.__builtins__.eval",
        "diptych.towers.clip.__loader__",
        "diptych.towers..os.system",
        "diptych.towers.clip.CLIP\n",
        "torch.nn.GELU.__init__",
        "torch.nn.Linear",
        ["os.system"],
        None,
    ],
    ids=str,
)
def test_only_towers_defined_here_are_built(target: object) -> None:
    with pytest.raises(UserError, match="which is no tower of ours: refused"):
        build({"_target_": target})


def test_what_a_constructor_can_t_take_is_one_sentence() -> None:
    vit = {"_target_": "diptych.towers.vit.VisionTransformer", "patch_size": 0, "width": "wide", "layers": 1}
    with pytest.raises(UserError, match=r"can't be built by this version: diptych\.towers\.vit"):
        build(vit | {"image_size": 16, "embed_dim": 4})
    with pytest.raises(UserError, match="can't be built by this version"):
        build({"_target_": "diptych.towers.nowhere.CLIP"})


def test_a_state_dict_that_hides_code_deep_inside(folder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    saved({"state_dict": to_open_clip(model_of(VIT)), "optimizer": {"x": [Malice(sentinel)]}}, folder / "x.pt")
    with pytest.raises(UserError, match=r"a pickle that names (posix|os)\.system"):
        load(folder / "x.pt")
    assert not sentinel.exists()
