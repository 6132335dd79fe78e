"""Checkpoints and exports from elsewhere: torch's zips and pickles, safetensors, folders of open_clip, Hugging Face
and ours. They are data: opened or refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from fuzz import bait, mutate
from fuzz.cases import Trial, secret_of
from fuzz.oracles import MARK
from interop_files import SMALL, VIT, model_of
from safetensors.torch import save

from diptych.base.errors import UserError
from diptych.data.text.tokenizer import Tokenizer
from diptych.interop import huggingface, open_clip, to_open_clip
from diptych.model.load import load, read_checkpoint

TINY = replace(VIT, **{**SMALL, "text_width": 8, "text_layers": 1, "embed_dim": 4}, image_layers=1, image_width=8)


class Hostile:
    """Unpickled in the usual way, it calls."""

    def __init__(self, way: int) -> None:
        self.way = way

    def __reduce__(self) -> Any:
        return [
            (bait.called, (1,)),
            (eval, (f"'{MARK}'",)),
            (exec, (f"x = '{MARK}'",)),
            (__import__, ("this",)),
            (getattr, (bait.Called, "__init__")),
            (bait.Called, (), {"a": 1}),
            (torch.load, ("/etc/passwd",)),
            (print, ("x",)),
        ][self.way]


@cache
def state() -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model_of(TINY).state_dict().items()}


@cache
def describe() -> dict[str, Any]:
    return {"model": TINY.config(), "name": "x", "seed": 0, "order": 2}


def saved(content: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def run_of(extra: dict[str, Any] | None = None, description: Any = None) -> dict[str, Any]:
    checkpoint = {"state_dict": {f"model.{k}": v for k, v in state().items()}, "global_step": 7}
    checkpoint["diptych"] = describe() if description is None else description
    return {**checkpoint, **(extra or {})}


def rezipped(data: bytes, change: Callable[[str, bytes], tuple[str, bytes]], **of: Any) -> bytes:
    target = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(target, "w", **of) as new,
    ):
        warnings.simplefilter("ignore")
        for entry in old.infolist():
            name, content = change(entry.filename, old.read(entry))
            new.writestr(name, content)
    return target.getvalue()


@cache
def whole(kind: str) -> bytes:
    return {
        "run": lambda: saved(run_of()),
        "legacy": lambda: saved(run_of(), zipped=False),
        "openai": lambda: saved(to_open_clip(model_of(TINY))),
        "ours": lambda: save({k: v.contiguous() for k, v in state().items()}),
        "open_clip": lambda: save({k: v.contiguous() for k, v in to_open_clip(model_of(TINY)).items()}),
        "huggingface": lambda: save({k: v.contiguous() for k, v in huggingface._split(state()).items()}),
    }[kind]()


def configs() -> dict[str, tuple[str, str, Any]]:
    """Kind of export -> the weights' name, the config's, and what the config says."""
    picture = {"mean": list(TINY.mean), "std": list(TINY.std)}
    return {
        "ours": ("model.safetensors", "config.yaml", {**describe(), "step": 7}),
        "open_clip": (
            "open_clip_model.safetensors",
            "open_clip_config.json",
            {"model_cfg": open_clip.model_cfg(TINY), "preprocess_cfg": picture},
        ),
        "huggingface": ("model.safetensors", "config.json", huggingface._config(TINY, state())),
    }


def with_header(data: bytes, rng: Random) -> bytes:
    """Safetensors whose header lies."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    way = rng.randrange(8)
    name = rng.choice([key for key in header if key != "__metadata__"])
    if way == 0:
        header[name]["shape"] = rng.choice([[10**12], [-1], [2**63], [], [0], [1] * 3000, "x", [1.5]])
    elif way == 1:
        header[name]["data_offsets"] = rng.choice([[0, 10**15], [5, 1], [-1, 4], [0], None, [0, 0]])
    elif way == 2:
        header[name]["dtype"] = rng.choice(["F8_E4M3", "X", "", 7, "I64", "BOOL"])
    elif way == 3:
        header["__metadata__"] = rng.choice([{"a": 1}, [], {"x" * 10**5: "y"}, "x"])
    elif way == 4:
        header = mutate.mutated(header, rng)
    raw = json.dumps(header).encode(errors="replace")
    if way == 5:
        raw = rng.choice([b"{" * 10**5, b"[]", b"", raw[:-4], b"{" + raw[1:-1] + b"," + raw[1:]])
    size = len(raw) if way != 6 else rng.choice([0, 2**63, len(raw) + 9, 2**40, 7])
    return struct.pack("<Q", size) + raw + (body if way != 7 else body[: len(body) // 2])


def zips(rng: Random) -> bytes:
    """A run's checkpoint whose zip or pickle is spoiled."""
    data = whole("run")
    way = rng.randrange(10)
    if way == 0:
        hostile = pickle.dumps({"a": Hostile(rng.randrange(8))}, protocol=rng.choice([0, 1, 2, 3, 4, 5]))
        return rezipped(data, lambda name, old: (name, hostile if name.endswith("data.pkl") else old))
    if way == 1:
        return rezipped(data, lambda name, old: (name, mutate.data(old, rng) if name.endswith("data.pkl") else old))
    if way == 2:
        return rezipped(data, lambda name, old: (name, old), compression=zipfile.ZIP_DEFLATED)
    if way == 3:
        odd = rng.choice(
            [
                "../x",
                "/etc/x",
                "a\\..\\x",
                "archive/data/0",
                "archive/data.pkl",
                "constants.pkl",
                "archive/.format_version",
                "x\x1b[2J",
            ]
        )
        seen = iter([odd])
        return rezipped(data, lambda name, old: (next(seen, name), old))
    if way == 4:
        return rezipped(data, lambda name, old: (name, old[: len(old) // 2] if "/data/" in name else old))
    if way == 5:
        return rezipped(
            data,
            lambda name, old: (
                name,
                rng.choice([b"big", b"", b"x" * 10**4]) if name.endswith(("byteorder", "version")) else old,
            ),
        )
    if way == 6:
        target = io.BytesIO(data)
        with zipfile.ZipFile(target, "a") as archive:
            archive.comment = rng.choice([b"x" * 65535, pickle.dumps({}), b"PK\x05\x06" + bytes(18)])
        return target.getvalue()
    if way == 7:
        return rng.choice([b"", b"x"]) + data if rng.random() < 0.5 else pickle.dumps({}) + data
    if way == 8:
        return data[: rng.randrange(len(data))]
    return mutate.data(data, rng)


def pickles(rng: Random) -> bytes:
    """Not a zip: torch's old format, plain pickles, other files."""
    way = rng.randrange(7)
    if way == 0:
        return pickle.dumps(Hostile(rng.randrange(8)), protocol=rng.randrange(6))
    if way == 1:
        return saved({"a": Hostile(rng.randrange(8))}, zipped=False)
    if way == 2:
        return mutate.data(whole("legacy")[:4000], rng) + whole("legacy")[4000:]
    if way == 3:
        return pickle.dumps(mutate.mutated({"state_dict": {"a": 1}}, rng), protocol=rng.randrange(6))
    if way == 4:
        return rng.choice(
            [
                b"",
                b"x",
                b"\x80\x02.",
                b"\x80\x05K\x01.",
                b"(" * 10**5,
                b"\x80\x04\x95" + b"\xff" * 8,
                b"]" * 10**5 + b".",
                b"cos\nsystem\n(S'touch x'\ntR.",
            ]
        )
    if way == 5:
        return b"\x80\x02" + b"]q\x00h\x00a" * rng.choice([1, 3000]) + b"."
    return saved(
        rng.choice([torch.ones(2), [], 7, "x", {"a": {"b": 1}}, {1: torch.ones(1)}, {"x": torch.ones(2).to_sparse()}])
    )


def contents(rng: Random, secret: str) -> bytes:
    """Whole files of torch's that say strange things."""
    way = rng.randrange(4)
    if way == 0:
        description = mutate.mutated(describe(), rng, secret)
        return _saved_or_empty(run_of(description=description))
    if way == 1:
        name = rng.choice(
            [
                "_instantiator",
                "hyper_parameters",
                "callbacks",
                "loops",
                "optimizer_states",
                "lr_schedulers",
                "pytorch-lightning_version",
                "global_step",
                "epoch",
            ]
        )
        return _saved_or_empty(run_of({name: mutate.odd(rng, secret)}))
    tensors = dict(run_of()["state_dict"])
    name = rng.choice(sorted(tensors))
    values = [
        torch.ones(1),
        torch.ones(()),
        tensors[name].to(torch.int64),
        tensors[name].double(),
        torch.ones(0, 3),
        torch.full_like(tensors[name], float("nan")),
        torch.empty(0),
        "text",
        None,
        tensors[name].expand(3, *tensors[name].shape),
    ]
    if way == 2:
        tensors[name] = rng.choice(values)
    elif rng.random() < 0.5:
        del tensors[name]
    else:
        tensors[rng.choice(["model.x", "x", "", "model.image.x\x1b[2J", "model."])] = torch.ones(3)
    return _saved_or_empty({**run_of(), "state_dict": tensors})


def _saved_or_empty(content: Any) -> bytes:
    try:
        return saved(content)
    except Exception:  # a value that can't be pickled
        return b""


def exported(rng: Random, folder: Path) -> Path:
    """A folder of weights and config, one of them spoiled."""
    kind = rng.choice(sorted(configs()))
    weights, config, tree = configs()[kind]
    data = whole(kind)
    way = rng.random()
    if way < 0.3:
        data = with_header(data, rng) if rng.random() < 0.7 else mutate.data(data[:3000], rng) + data[3000:]
    else:
        tree = mutate.mutated(tree, rng, secret_of(folder))
    try:
        text = yaml.safe_dump(tree, allow_unicode=False) if config.endswith("yaml") else json.dumps(tree)
    except (ValueError, RecursionError, yaml.YAMLError):
        text = "[" * 5000
    if rng.random() < 0.15:
        text = rng.choice(
            [
                "a: &a [*a]\nmodel: *a",
                "model: !!python/name:os.system",
                "- 1",
                "",
                "\ufeff" + text,
                text + "\n---\n" + text,
                "{" * 10**5,
                "model: {<<: [1]}",
                "1: 2\nmodel: {}",
                "? [a]\n: b",
                "model: 2001-01-01",
                "model: 0x" + "f" * 9999,
                "%YAML 9.9\n---\n" + text,
                "model: !!binary x",
                "&a a: *a",
            ]
        )
    (folder / weights).write_bytes(data)
    (folder / config).write_bytes(text.encode(errors="surrogatepass"))
    if kind == "huggingface" and rng.random() < 0.4:
        pictures = mutate.mutated(
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "resample": 3}, rng
        )
        with_odd = json.dumps(pictures, default=str) if rng.random() < 0.8 else "["
        (folder / "preprocessor_config.json").write_bytes(with_odd.encode(errors="replace"))
    if rng.random() < 0.1:
        index = {"weight_map": {"a": rng.choice(["../secret.txt", secret_of(folder), "x.bin", 7])}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@cache
def warmed() -> bool:
    """What a first load imports and makes is there before a case's clock runs."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.ckpt").write_bytes(whole("run"))
        (Path(folder) / "y.pt").write_bytes(pickle.dumps({}))
        load(Path(folder) / "x.ckpt")
        with suppress(UserError):
            load(Path(folder) / "y.pt")
    import torch._inductor.runtime.cache_dir_utils  # a folder of its own, made when torch names a dtype of it

    torch._inductor.runtime.cache_dir_utils.cache_dir()
    return True


def checkpoints(rng: Random, folder: Path) -> Trial:
    assert warmed()
    way = rng.random()
    path = folder / rng.choice(["x.pt", "x.ckpt", "x.bin", "x.pth"])
    if way < 0.2:
        path.write_bytes(zips(rng))
    elif way < 0.35:
        path.write_bytes(pickles(rng))
    elif way < 0.5:
        path.write_bytes(contents(rng, secret_of(folder)))
    elif way < 0.6:
        path = folder / "x.safetensors"
        data = whole(rng.choice(["ours", "open_clip", "huggingface"]))
        path.write_bytes(
            with_header(data, rng) if rng.random() < 0.7 else mutate.data(data[:3000], rng) + data[3000:]
        )
    else:
        path = exported(rng, folder)
    if way < 0.5 and rng.random() < 0.3:
        (folder / "checkpoints").mkdir()
        path.rename(folder / "checkpoints" / "last.ckpt")
        path = folder
    changes: dict[str, Any] = {}
    if rng.random() < 0.1:
        changes = rng.choice([{"image_size": 24}, {"context_length": 9}, {"quick_gelu": True}, {"image_size": 7}])
    again = way < 0.5 and rng.random() < 0.2

    def call() -> object:
        if again:
            file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
            return sorted(map(str, read_checkpoint(file)))
        loaded = load(path, **changes)
        return loaded.describe, loaded.step, loaded.tokenizer.vocab_size == Tokenizer.vocab_size

    return Trial(call)
