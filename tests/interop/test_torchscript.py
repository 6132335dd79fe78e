"""TorchScript archives: tensors as torch.jit would give them, without it."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from interop_files import RESNET, VIT, openai_state, scripted, write_torchscript
from torch import nn

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.interop.torchscript import is_torchscript, read_torchscript


@pytest.fixture
def archive(folder: Path) -> Path:
    return write_torchscript(folder, RESNET)


def test_the_state_dict_is_that_of_torch_jit(archive: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(archive).state_dict()
    found = read_torchscript(archive)
    mask = "transformer.resblocks.0.attn_mask"
    assert mask in expected and found.keys() == expected.keys() - {mask}
    assert all(value.dtype == expected[n].dtype and torch.equal(value, expected[n]) for n, value in found.items())


def test_views_and_shared_numbers(folder: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    module = scripted({"a.t": base.T, "a.row": base[1], "b.empty": torch.empty(0, 3), "b.scalar": torch.tensor(2.0)})
    torch.jit.save(module, folder / "x.pt")
    found = read_torchscript(folder / "x.pt")
    assert torch.equal(found["a.t"], base.T) and torch.equal(found["a.row"], base[1])
    assert found["b.empty"].shape == (0, 3) and found["b.scalar"].item() == 2


def test_only_archives_of_torchscript_are_taken_for_one(archive: Path, folder: Path) -> None:
    torch.save(openai_state(VIT), folder / "plain.pt")
    (folder / "text").write_text("no zip")
    assert [is_torchscript(p) for p in (archive, folder / "plain.pt", folder / "text")] == [True, False, False]


def test_torch_jit_is_not_called(archive: Path) -> None:
    code = (
        "import sys, torch\n"
        "def fail(*a, **k): raise SystemExit('called')\n"
        "torch.jit.load = torch._C.import_ir_module = torch._C.import_ir_module_from_buffer = fail\n"
        "from diptych.interop.formats import read\n"
        f"print(len(read({str(archive)!r}).state))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src")
    assert ended.stdout.strip() == str(len(openai_state(RESNET)) - 3), ended.stderr


def changed(archive: Path, name: str, data: bytes | None) -> Path:
    target = archive.with_name("changed.pt")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            inside = entry.filename.split("/", 1)[1]
            if inside != name:
                new.writestr(entry.filename, old.read(entry))
            elif data is not None:
                new.writestr(entry.filename, data)
    return target


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("data/3", None, "the missing entry data/3"),
        ("data/3", b"\0\0", "that needs more than its 1 numbers|needs more than its 0 numbers"),
        ("data.pkl", None, "no or several data.pkl"),
        ("data.pkl", b"\x80\x02}.", "no module in it"),
        (
            "data.pkl",
            b"\x80\x02c__torch__\nM\n)\x81}X\x01\0\0\0ac__torch__\nM\n)\x81s",
            "pickle exhausted before seeing STOP",
        ),
        ("byteorder", b"big", "aren't little-endian"),
    ],
)
def test_archives_that_were_tampered_with(name: str, data: bytes | None, sentence: str, archive: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        read_torchscript(changed(archive, name, data))


def test_modules_in_themselves_have_an_end(archive: Path) -> None:
    # M.state = {"a": M}, by way of the memo
    loop = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\0\0\0ah\x00sb."
    with pytest.raises(UserError, match="modules without end"):
        read_torchscript(changed(archive, "data.pkl", loop))


def test_a_module_that_keeps_its_own_state_has_no_tensors(folder: Path) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.ones(2)

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, bool]:
            return self.weight, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
            self.weight, self.training = state[0], state[1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Packed()), folder / "x.pt")
    assert read_torchscript(folder / "x.pt") == {}
