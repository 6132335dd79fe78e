"""One set as people hand it on (joined, from a Mac, cut, with odd samples) through pack, verify, train, evaluate."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samples import caption, picture


def packed(first: int, last: int, changes: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for n in range(first, last):
            for name, data in ((f"d/{n:03d}.png", picture(n)), (f"d/{n:03d}.txt", caption(n).encode())):
                for entry, content in (
                    (name.replace("d/", "d/._"), b"\0\5\x16\7"),
                    (name, (changes or {}).get(name, data)),
                ):
                    member = tarfile.TarInfo(entry)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_every_file_is_accounted_for(cli: Callable[..., Any], tmp_path: Path) -> None:
    odd = {"d/003.txt": "\u200b".encode(), "d/009.png": b"<html>", "d/012.txt": b""}
    (tmp_path / "tars").mkdir()
    joint = packed(0, 10, odd) + packed(10, 16, odd)
    (tmp_path / "tars/a.tar").write_bytes(joint)
    (tmp_path / "tars/._a.tar").write_bytes(b"\0\5\x16\7")
    whole = 7
    cut = packed(16, 32)  # within the header of the eighth's caption, whose picture is there
    (tmp_path / "tars/b.tar").write_bytes(cut[: cut.index(b"d/023.txt") + 100])
    bad = {"empty caption": 2, "not a readable image": 1, "cut off in the tar": 1}

    refused = cli("pack", "source=shards", "path=tars", "out=index")
    assert refused.code == 2 and f"b.tar is cut or damaged after {whole} samples" in refused.err
    made = cli("pack", "source=shards", "path=tars/a*.tar")
    assert made.code == 0 and "16 samples in 1 shard" in made.out and "left out: 32 × macOS's own file" in made.out
    checked = cli("pack", "source=shards", "path=tars/*.tar", "verify=true")
    findings = json.loads((tmp_path / "verify.json").read_text())
    assert checked.code == 2
    named = [of["key"] for of in findings if of["key"] and not of["key"].startswith("d/._")]
    assert sorted(named) == ["d/003", "d/009", "d/012", "d/023"] and len(named) == sum(bad.values())
    (tmp_path / "tars/index.json").unlink()

    common = [
        "model=rn_tiny",
        "data.workers=0",
        "data.evaluate=null",
        "trainer=cpu",
        "data=webdataset",
        "logger=none",
        "data.batch_size=8",
        "data.streams=2",
    ]
    common += ["data.shards=tars", "trainer.max_steps=6"]
    assert "data.max_bad=0.01 allows" in cli("train", *common, "run_dir=strict").err
    trained = cli("train", *common, "data.max_bad=0.5", "run_dir=run")
    assert trained.code == 0, trained.err
    counts = json.loads((tmp_path / "run/samples.json").read_text())
    epochs = 2
    assert counts["read"] == 48 == epochs * (16 + whole + 1)
    skipped = {reason.removesuffix(" (.png)"): sum(of.values()) for reason, of in counts["skipped"].items()}
    assert skipped == {reason: epochs * n for reason, n in bad.items()}
    assert counts["skipped"]["cut off in the tar"].keys() == {"b.tar"}
    of_macos = next(of for reason, of in counts["left_out"].items() if "macOS" in reason)
    assert of_macos["a.tar"] == 32
    assert "tars joined end to end?" in trained.err and "cut or damaged after" in trained.err

    given = ("checkpoint=run", "task=retrieval", "data=webdataset", "data.shards=tars", "out=recall")
    assert "data.max_bad=0.01 allows" in cli("evaluate", *given).err
    assert "data.max_bad=2 must be below 1" in cli("evaluate", *given, "data.max_bad=2").err
    scored = cli("evaluate", *given, "data.max_bad=0.5")
    assert scored.code == 0, scored.err
    recall = json.loads((tmp_path / "recall/metrics.json").read_text())["retrieval"]["pairs"]
    assert recall["skipped"] == bad and recall["n"] + sum(bad.values()) == 16 + whole + 1
    assert all(f"{n} × {reason}" in scored.out for reason, n in bad.items())
