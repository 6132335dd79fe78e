"""Writes kept.tar.gz: a run of two steps, its export, its data, and what it gave when it was resumed, by the version
of 2026-11-28, before modules moved. A later version opens all of it, resumes the run and gets the same numbers.

    python tests/golden/make_kept_run.py

The file is not made again: it holds what that version wrote.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
KEPT = Path(tempfile.mkdtemp()) / "kept"
SMALL = (
    "model=vit_tiny", "model.image.width=16", "model.image.layers=1", "model.image.heads=2",
    "model.image.embed_dim=8", "model.image.patch_size=8", "model.text.width=16", "model.text.heads=2",
    "model.text.vocabulary=merges.txt", "trainer=cpu", "trainer.precision=32-true", "logger=none",
    "data=webdataset", "data.shards=shards/index.json", "data.workers=0", "data.batch_size=8",
    "data.evaluate=set", "data.validation=2", "trainer.log_every=1", "schedule=constant", "schedule.warmup=1",
    "callbacks=ema", "trainer.max_steps=2", "run_dir=run",
)  # fmt: skip
NAMES = ["red", "green", "blue", "grey"]
NEEDED = ("config.yaml", "metrics.jsonl", "samples.json", "vocabulary.txt")


def typed(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "src" / script), *arguments], cwd=KEPT, check=True)


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 90, (12, 12, 3))
    if number % 4 < 3:
        pixels[..., number % 4] += 150
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_data() -> None:
    entries = []
    (KEPT / "shards").mkdir(parents=True)
    (KEPT / "set/test").mkdir(parents=True)
    for shard in range(2):
        path = KEPT / f"shards/{shard}.tar"
        with wds.TarWriter(str(path), mtime=0) as writer:
            for n in range(shard * 20, shard * 20 + 20):
                text = f"a {NAMES[n % 4]} square"
                writer.write({"__key__": f"{n:03d}", "png": picture(n), "txt": text})
        entries.append({"path": path.name, "samples": 20, "bytes": path.stat().st_size})
    (KEPT / "shards/index.json").write_text(json.dumps({"version": 1, "shards": entries}), encoding="utf-8")
    (KEPT / "set/classnames.txt").write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    (KEPT / "set/zeroshot_classification_templates.txt").write_text("a {c} square\n", encoding="utf-8")
    with wds.TarWriter(str(KEPT / "set/test/0.tar"), encoder=False, mtime=0) as writer:
        for n in range(100, 108):
            writer.write({"__key__": str(n), "png": picture(n), "cls": str(n % 4).encode()})
    merges = ["a n", "e d</w>", "r ed</w>", "s q", "u a", "r e</w>", "sq ua", "squa re</w>", "g r", "b l"]
    (KEPT / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def named() -> list[str]:
    """Every class and function that a config names."""
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    return sorted({name for file in files for name in re.findall(r"_target_: *([\w.]+)", file.read_text("utf-8"))})


def nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def main() -> None:
    write_data()
    typed("train.py", *SMALL)
    typed("convert.py", "checkpoint=run", "format=diptych", "out=export")
    shutil.copytree(KEPT / "run", KEPT / "longer")
    typed("train.py", "resume=longer", "trainer.max_steps=4")
    typed("evaluate.py", "checkpoint=longer", "data=benchmark", "data.path=set", "out=evaluated")
    lines = [json.loads(line) for line in (KEPT / "longer/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    told = json.loads((KEPT / "evaluated/metrics.json").read_text(encoding="utf-8"))
    expected = {"metrics": lines, "evaluation": told["zeroshot"], "targets": named()}
    (KEPT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    for file in (KEPT / "run").iterdir():
        if file.is_file() and file.name not in NEEDED:
            file.unlink()
    for name in ("best", "step=2"):
        (KEPT / f"run/checkpoints/{name}.ckpt").unlink()
    config = (KEPT / "run/config.yaml").read_text(encoding="utf-8")
    (KEPT / "run/config.yaml").write_text(config.replace(str(KEPT), "/elsewhere"), encoding="utf-8")
    with tarfile.open(HERE / "kept.tar.gz", "w:gz") as archive:
        for name in ("run", "export", "shards", "set", "merges.txt", "expected.json"):
            archive.add(KEPT / name, name, filter=nobodys)


if __name__ == "__main__":
    main()
