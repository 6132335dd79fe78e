"""Checkpoints on the disk: whole or not there, written beside the training, and read as data, never executed."""

from __future__ import annotations

import os
import pickle
import random
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from diptych.base.errors import UserError
from diptych.commands.resume import damage, recover
from diptych.model.load import read_checkpoint
from diptych.training.checkpoints import (
    CheckpointFiles,
    _apart,
    give_name,
    read,
    remove,
    replace,
    snapshot,
    step_checkpoints,
    write,
)


def state(step: int) -> dict:
    return {"step": step, "weights": torch.full((1000,), float(step)), "nested": [(torch.arange(3), "x")]}


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes: writing then fails as on a full disk, with an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def saved(folder: Path, *steps: int) -> None:
    files = CheckpointFiles(keep=9)
    for step in steps:
        files.save_checkpoint(state(step), folder / f"step={step}.ckpt", ["last.ckpt"])
    files.wait()


def test_a_save_is_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    files, content = CheckpointFiles(keep=2), state(1)
    files.save_checkpoint(content, tmp_path / "step=1.ckpt", ["last.ckpt"])
    content["weights"].zero_()
    content["nested"][0][0].zero_()
    files.wait()
    read = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert read["weights"].unique().tolist() == [1.0] and read["nested"][0][0].tolist() == [0, 1, 2]


def test_a_snapshot_keeps_layout_and_shares_nothing() -> None:
    picture = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    copy = snapshot({"a": [picture, (picture[:1], None)]})
    assert copy["a"][0].stride() == picture.stride() and torch.equal(copy["a"][0], picture)
    assert copy["a"][0].data_ptr() != picture.data_ptr()
    assert copy["a"][1][1] is None and copy["a"][1][0].untyped_storage().nbytes() == 60 * 4


def test_the_newest_stay_and_a_name_moves_at_once(tmp_path: Path) -> None:
    files = CheckpointFiles(keep=2)
    for step in (2, 4, 10):
        files.save_checkpoint(state(step), tmp_path / f"step={step}.ckpt", ["last.ckpt"])
    files.wait()
    assert [file.name for file in step_checkpoints(tmp_path)] == ["step=10.ckpt", "step=4.ckpt"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "step=10.ckpt", "step=4.ckpt"]
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "step=10.ckpt")
    give_name(tmp_path / "step=4.ckpt", tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "step=4.ckpt")


def test_a_second_save_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs holds the training up; copies don't pile up."""
    import diptych.training.checkpoints as module

    begun, go_on = threading.Event(), threading.Event()
    real = module.write

    def slow(content: object, file: Path) -> None:
        begun.set()
        assert go_on.wait(30)
        real(content, file)

    monkeypatch.setattr(module, "write", slow)
    files = CheckpointFiles(keep=9)
    files.save_checkpoint(state(1), tmp_path / "step=1.ckpt")
    assert begun.wait(30) and not step_checkpoints(tmp_path)
    second = threading.Thread(target=files.save_checkpoint, args=(state(2), tmp_path / "step=2.ckpt"))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    second.join(30)
    files.wait()
    assert len(step_checkpoints(tmp_path)) == 2


def test_a_full_disk_is_counted_and_what_was_there_stays(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    files = CheckpointFiles(keep=1)
    with disk_of(2000):
        files.save_checkpoint(state(2), tmp_path / "step=2.ckpt", ["last.ckpt"])
        files.wait()
    assert files.failed == 1 and files.last_error is not None
    assert files.last_error.filename == str(tmp_path / "step=2.ckpt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "step=1.ckpt"]
    files.save_checkpoint(state(3), tmp_path / "step=3.ckpt", ["last.ckpt"])
    files.wait()
    assert files.failed == 1 and files.last_error is None
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["step"] == 3


def test_another_error_of_the_thread_reaches_the_training(tmp_path: Path) -> None:
    files = CheckpointFiles(keep=1)
    files.save_checkpoint({"a": threading.Lock()}, tmp_path / "step=1.ckpt")
    with pytest.raises(TypeError, match="pickle"):
        files.wait()
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_or_lost_byte_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "step=1.ckpt"
    write(state(1), file)
    whole, rng = file.read_bytes(), random.Random(0)
    assert damage(file) is None
    for _ in range(300):
        place = rng.randrange(len(whole))
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :])
        assert damage(file) is not None, place
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert damage(file) is not None, length


def spoil(file: Path) -> None:
    """In place: other names of the same file see it too."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\xff\x00\xff")


def test_recovery_takes_the_one_before_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "checkpoints"
    saved(folder, 1, 2, 3)
    give_name(folder / "step=3.ckpt", folder / "best.ckpt")
    (folder / ".step=4.ckpt.partial").write_bytes(b"half")
    spoil(folder / "step=3.ckpt")
    assert recover(tmp_path) == folder / "last.ckpt"
    assert torch.load(folder / "last.ckpt", weights_only=True)["step"] == 2
    err = capsys.readouterr().err
    assert "step=3.ckpt is damaged" in err and "continues from step=2.ckpt" in err
    assert sorted(f.name for f in folder.iterdir()) == [
        "last.ckpt", "step=1.ckpt", "step=2.ckpt", "step=3.ckpt.damaged",
    ]  # fmt: skip


def test_recovery_takes_a_newer_one_than_last_names(tmp_path: Path) -> None:
    """As after a kill between a file's rename and its second name."""
    folder = tmp_path / "checkpoints"
    saved(folder, 1)
    write(state(2), folder / "step=2.ckpt")
    assert recover(tmp_path) is not None
    assert (folder / "last.ckpt").samefile(folder / "step=2.ckpt")


def test_recovery_takes_a_last_that_came_alone_and_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    assert recover(tmp_path) is None
    saved(tmp_path / "checkpoints", 1)
    (tmp_path / "checkpoints/step=1.ckpt").unlink()
    assert recover(tmp_path) == tmp_path / "checkpoints/last.ckpt"


def test_where_none_is_whole_each_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoints", 1, 2)
    for file in step_checkpoints(tmp_path / "checkpoints"):
        spoil(file)
    with pytest.raises(UserError, match=r"all its checkpoints are damaged: step=2.ckpt \(.*\); step=1.ckpt \(.*\)\."):
        recover(tmp_path)


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
    whole = CheckpointFiles(keep=1).load_checkpoint(folder)
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
