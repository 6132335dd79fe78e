"""Checkpoints as folders: nothing in them is executed, on the way of a run that goes on, too."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from diptych.base.errors import UserError
from diptych.model.load import read_checkpoint
from diptych.training.naming import give_name, remove, replace
from diptych.training.sharded import CheckpointIO, _apart, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As one rank would have written it."""
    written = tmp_path / "checkpoints" / "step=3.ckpt"
    tensors: dict[str, Any] = {}
    rest = {
        "state_dict": _apart({"model.w": torch.arange(6.0).view(3, 2)}, "state_dict", tensors),
        "optimizer_states": _apart(
            [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3, 2)}}, "param_groups": [{"lr": 0.1}]}],
            "optimizer_states",
            tensors,
        ),
        "global_step": 3,
        "diptych": {"model": {}},
    }
    dcp.save(tensors, checkpoint_id=written, no_dist=True)
    torch.save(rest, written / "meta.pt")
    return written


def test_a_folder_reads_as_the_file_it_stands_for(folder: Path) -> None:
    whole = CheckpointIO(keep=1).load_checkpoint(folder)
    assert torch.equal(whole["state_dict"]["model.w"], torch.arange(6.0).view(3, 2))
    state = whole["optimizer_states"][0]
    assert state["param_groups"] == [{"lr": 0.1}] and state["state"][0]["step"] == 3
    assert torch.equal(state["state"][0]["exp_avg"], torch.ones(3, 2))
    assert read_checkpoint(folder)["global_step"] == 3


class Malice:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("part", [".metadata", "inside .metadata", "meta.pt", "__0_0.distcp"])
def test_a_run_does_not_go_on_from_a_hostile_folder(part: str, folder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    if part == "inside .metadata":
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        metadata.planner_data = Malice(sentinel)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    elif part == "meta.pt":
        torch.save({"state_dict": {}, "optimizer_states": [], "x": Malice(sentinel)}, folder / part)
    else:
        size = (folder / part).stat().st_size
        (folder / part).write_bytes(pickle.dumps(Malice(sentinel)).ljust(size, b"\0"))
    with pytest.raises(UserError, match="is refused"):
        read(folder)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(Malice(sentinel)))
    assert sentinel.exists()


def test_a_name_a_tensor_does_not_have_is_refused(folder: Path) -> None:
    rest = torch.load(folder / "meta.pt", weights_only=True)
    rest["state_dict"]["model.w"]["tensor"] = "state_dict.gone"
    torch.save(rest, folder / "meta.pt")
    with pytest.raises(UserError, match="doesn't fit the files beside it"):
        read(folder)


def test_file_and_folder_take_each_others_place(folder: Path) -> None:
    file = folder.with_name(".partial")
    file.write_text("file")
    replace(file, folder)
    assert folder.read_text() == "file" and not file.exists()
    other = folder.with_name("other")
    for _ in range(2):
        other.mkdir()
        replace(other, folder)
        assert folder.is_dir() and not other.exists()


def test_a_folder_with_a_name_stays(folder: Path) -> None:
    give_name(folder, folder.with_name("last.ckpt"))
    remove(folder)
    assert torch.equal(read(folder.with_name("last.ckpt"))["state_dict"]["model.w"][2], torch.tensor([4.0, 5.0]))
    other = folder.with_name("step=4.ckpt")
    folder.rename(other)
    give_name(other, folder.with_name("last.ckpt"))
    file = folder.with_name("step=2.ckpt")
    file.touch()
    remove(file)
    assert not file.exists() and (folder.with_name("last.ckpt")).readlink() == Path("step=4.ckpt")
