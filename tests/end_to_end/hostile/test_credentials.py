"""Law 4: a password stays in memory and goes to its own host alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_config import TINY
from http_server import serving

from diptych.base.errors import UserError
from samples import write_shards

Cli = Callable[..., Any]


def files_with(folder: Path, *words: str) -> list[str]:
    found = [file for file in folder.rglob("*") if file.is_file()]
    assert found
    return [str(file) for file in found if any(word.encode() in file.read_bytes() for word in words)]


def test_credentials_stay_in_memory(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of an address, from the command line to the end of a resume: never written, never printed."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_shards(tmp_path / "shards", [16, 16])
    words = ("hunter2",)
    arguments = [a for a in TINY if a != "logger=none"]
    with serving() as server:
        for file in (tmp_path / "shards").iterdir():
            server.files[f"/x/{file.name}"] = file.read_bytes()
        given = f"data.shards={server.url('/x/index.json', 'me:hunter2@')}"
        run = tmp_path / "run"
        ended = [cli("train", *arguments, given, "data.evaluate=null", "logger=wandb", f"run_dir={run}")]
        assert ended[0].code == 0, ended[0].err
        assert server.headers[0]["authorization"] == "Basic bWU6aHVudGVyMg=="
        assert "<hidden>@127.0.0.1" in (run / "config.yaml").read_text()
        assert "&lt;hidden&gt;@127.0.0.1" in (run / "report.html").read_text()
        assert list(run.glob("wandb/*/*.wandb"))
        assert files_with(run, *words) == []
        again = cli("train", f"resume={run}")
        assert again.code == 2 and "needs data.shards again, as when the run began" in again.err
        ended += [again, cli("train", f"resume={run}", given)]
        assert ended[-1].code == 0, ended[-1].err
        ended.append(cli("train", *TINY, given.replace("/x/", "/y/"), f"run_dir={tmp_path / 'other'}"))
        assert ended[-1].code == 2 and "/y/index.json does not exist" in ended[-1].err
    assert not any(word in each.out + each.err for each in ended for word in words)
    assert files_with(tmp_path / "run", *words) == []


def test_a_password_of_netrc_goes_to_its_host_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.data.io.files import Files

    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\nmachine plain.example login me password x\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving() as server:
        server.files["/a"] = b"abc"
        assert Files().read(server.url("/a")) == b"abc"
        assert server.headers[-1]["authorization"] == "Basic bWU6aHVudGVyMg=="
        assert Files().read(server.url("/a", "you:other@")) == b"abc"
        assert server.headers[-1]["authorization"] == "Basic eW91Om90aGVy"
        netrc.write_text("machine elsewhere.example login me password hunter2\n")
        assert Files().read(server.url("/a")) == b"abc" and "authorization" not in server.headers[-1]
        netrc.write_text("machine 127.0.0.1 frobnicate x")
        with pytest.raises(UserError, match="netrc can't be used for 127"):
            Files().read(server.url("/a"))
    from diptych.data.io.http import _kept

    netrc.write_text("machine plain.example login me password x\n")
    assert _kept("http", "plain.example") == "" and _kept("https", "plain.example") == "me:x"
