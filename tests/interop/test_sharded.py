"""Lightning's sharded checkpoints: joined as torch would, and never unpickled."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from gloo import on_ranks
from interop_files import VIT, model_of
from torch.distributed.fsdp import fully_shard

from diptych.base.errors import UserError
from diptych.interop.formats import convert, read

TINY = replace(VIT, vocab_size=65)  # not to be halved


def write_sharded(folder: Path, state: dict[str, Any], rank: int = 0, **changes: Any) -> Path:
    """As ModelParallelStrategy does with save_distributed_checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = {f"model.{name}": value for name, value in state.items()}
        dcp.save({"state_dict": wrapped, "optimizer_0": {"lr": 0.1}}, checkpoint_id=folder)
    if rank == 0:
        rest = {"global_step": 5, "diptych": {"model": TINY.config(), "name": "run"}} | changes
        torch.save(rest, folder / "meta.pt")
    return folder


def save_from_ranks(rank: int, world: int, folder: str) -> int:
    model = model_of(TINY)
    model.image.half()
    for block in (*model.image.transformer.resblocks, *model.text.transformer.resblocks):
        fully_shard(block)
    fully_shard(model, ignored_params={model.logit_scale})
    write_sharded(Path(folder), model.state_dict(), rank)
    return len(list(model.parameters()))


@pytest.mark.slow
def test_shards_of_two_ranks_are_joined(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = run / "checkpoints" / "last.ckpt"
    on_ranks(2, save_from_ranks, str(folder))
    assert {file.name for file in folder.iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"}
    expected = model_of(TINY)
    expected.image.half()
    weights = read(run)
    assert weights.step == 5 and weights.describe["name"] == "run"
    assert weights.state.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert weights.state[name].dtype == value.dtype and torch.equal(weights.state[name], value), name
    again = read(convert(folder, "diptych", tmp_path / "whole"))
    assert all(torch.equal(again.state[name], value) for name, value in weights.state.items())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_sharded(tmp_path / "sharded", model_of(TINY).state_dict())


class Malice:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.sentinel}",)


def change_metadata(folder: Path, change: Callable[[Any], None]) -> None:
    with (folder / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def places(metadata: Any) -> list[Any]:
    return [place for index, place in metadata.storage_data.items() if index.fqn.startswith("state_dict.")]


def enormous(metadata: Any) -> None:
    name = "state_dict.model.text.text_projection"
    old = metadata.state_dict_metadata[name]
    metadata.state_dict_metadata[name] = replace(old, size=torch.Size([10**12, 12]))


def shifted(metadata: Any) -> None:
    chunk = metadata.state_dict_metadata["state_dict.model.text.text_projection"].chunks[0]
    chunk.sizes = torch.Size([15, 12])


def incomplete(metadata: Any) -> None:
    metadata.state_dict_metadata["state_dict.model.text.text_projection"].chunks.clear()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: [setattr(p, "relative_path", "../secret") for p in places(m)], "in '../secret', no file of this"),
        (lambda m: [setattr(p, "relative_path", "/etc/passwd") for p in places(m)], "no file of this folder"),
        (lambda m: [setattr(p, "relative_path", "gone.distcp") for p in places(m)], "no file of this folder"),
        (lambda m: [setattr(p, "length", 10**12) for p in places(m)], "longer than __0_0.distcp, which was cut"),
        (lambda m: [setattr(p, "offset", 3) for p in places(m)], "followed by no plain tensor"),
        (lambda m: m.storage_data.clear(), "doesn't fit the files beside it"),
        (enormous, r"a promise of 48,000,[\d,]+ bytes, and the files beside it"),
        (shifted, r"wrong about .*: \[16, 12\] there, \[15, 12\] promised"),
        (incomplete, "incomplete: 0 of 192 numbers of state_dict.model.text.text_projection"),
    ],
)
def test_metadata_that_lies_is_refused(change: Callable[[Any], None], sentence: str, sharded: Path) -> None:
    (sharded.parent / "secret").write_bytes((sharded / "__0_0.distcp").read_bytes())
    change_metadata(sharded, change)
    with pytest.raises(UserError, match=sentence):
        read(sharded)


def test_code_in_any_part_never_runs(sharded: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    whole, rest = (sharded / ".metadata").read_bytes(), (sharded / "meta.pt").read_bytes()
    (sharded / ".metadata").write_bytes(pickle.dumps(Malice(sentinel)))
    with pytest.raises(UserError, match=r"its \.metadata is a pickle that names (posix|os)\.system"):
        read(sharded)
    (sharded / ".metadata").write_bytes(whole)
    change_metadata(sharded, lambda metadata: setattr(metadata, "planner_data", Malice(sentinel)))
    with pytest.raises(UserError, match=r"a pickle that names (posix|os)\.system"):
        read(sharded)
    (sharded / ".metadata").write_bytes(whole)
    torch.save({"diptych": Malice(sentinel)}, sharded / "meta.pt")
    with pytest.raises(UserError, match=r"a pickle that names (posix|os)\.system"):
        read(sharded)
    (sharded / "meta.pt").write_bytes(rest)
    pieces = sharded / "__0_0.distcp"
    pieces.write_bytes(pickle.dumps(Malice(sentinel)).ljust(pieces.stat().st_size, b"\0"))
    with pytest.raises(UserError, match="is refused"):
        read(sharded)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(Malice(sentinel)))
    assert sentinel.exists()


def test_a_sharded_folder_without_its_parts(sharded: Path) -> None:
    metadata = (sharded / ".metadata").read_bytes()
    (sharded / ".metadata").write_bytes(metadata[:-200])
    with pytest.raises(UserError, match=r"a damaged pickle|without an end"):
        read(sharded)
    (sharded / "meta.pt").unlink()
    with pytest.raises(UserError, match=r"meta\.pt is missing in it"):
        read(sharded)
