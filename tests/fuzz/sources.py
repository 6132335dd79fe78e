"""What becomes shards by `pack`: folders and tables. Every picture and row is packed, or left out by name."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutate
from fuzz.cases import Trial, secret_of
from fuzz.oracles import Lost
from fuzz.pictures import JSONS
from fuzz.tars import build, small

from diptych.base.errors import UserError
from diptych.packing import folder as folders_source
from diptych.packing import shards as shards_source
from diptych.packing import table as table_source


def packed(out: Path) -> tuple[int, int, dict[str, Any]]:
    """(samples, left out, reasons) of a packing that ended."""
    said = json.loads((out / "pack.json").read_text())
    return said["samples"], sum(of["count"] for of in said["left_out"].values()), said["left_out"]


def written(out: Path) -> list[Path]:
    return [file for file in out.rglob("*") if file.is_file()] if out.is_dir() else []


def folders(rng: Random, folder: Path) -> Trial:
    """Pictures with captions beside them; names, links and captions are spoiled. Counted by hand."""
    root, out = folder / "in", folder / "out"
    root.mkdir()
    good = bad = 0
    certain = True
    for number in range(rng.randint(1, 6)):
        name = rng.choice([f"{number}", f"sub/{number}", f"a b/{number}", f"ü{number}", f"x.{number}"])
        picture = root / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        way = rng.randrange(16)
        picture.write_bytes(small())
        beside = root / f"{name}.txt"
        beside.write_text(f"caption {number}")
        if way == 0:
            beside.unlink()
            bad += 1
        elif way == 1:
            beside.write_bytes(rng.choice([b"", b"\xff\xfe\xfd", b" \n"]))
            bad += 1
        elif way == 2:
            picture.write_bytes(rng.choice([b"", b"no picture"]))
            bad += 1
        elif way == 3:
            beside.unlink()
            (root / f"{name}.json").write_bytes(rng.choice(JSONS))
            good, certain = good + 1, False
        elif way == 4:
            picture.rename(root / f"{name}.{rng.choice(['jfif', 'JPE', 'avif', 'heic', 'jxl', 'PNG', 'svg'])}")
            good, certain = good + 1, False
        elif way == 5:
            beside.rename(root / f"{name}.TXT")
            good, certain = good + 1, False
        elif way == 6:
            picture.unlink()
            picture.symlink_to(rng.choice(["missing.png", f"{number}.png"]))
            bad, certain = bad + 1, False
        elif way == 7:
            real = folder / f"elsewhere{number}"
            real.mkdir()
            (real / "l.png").write_bytes(small())
            (real / "l.txt").write_text("linked")
            (root / f"link{number}").symlink_to(real)
            good, certain = good + 2, False
        elif way == 8:
            (root / f"loop{number}").symlink_to(".")
            good += 1
        elif way == 9:
            beside.unlink()
            beside.symlink_to(secret_of(folder))
            good, certain = good + 1, False
        elif way == 10:
            picture.unlink()
            picture.mkdir()
            bad, certain = bad, False
        elif way == 11 and rng.random() < 0.1:
            os.mkfifo(root / f"{name}.fifo.png")
            good, bad, certain = good + 1, bad + 1, False
        elif way == 12:
            (root / f"{name}.\udcff.png").write_bytes(small())
            good, bad, certain = good + 1, bad + 1, False
        else:
            good += 1
    if rng.random() < 0.15:
        tree = mutate.mutated({"0.png": "a", "1.png": ["b", "c"]}, rng, secret_of(folder))
        try:
            data = json.dumps(tree)
        except (ValueError, RecursionError):
            data = "["
        (root / "captions.json").write_bytes(
            data.encode(errors="surrogatepass") if rng.random() < 0.8 else b"[" * 10**5
        )
        certain = False
        good = bad = 0

    def call() -> object:
        try:
            folders_source.pack(str(root), str(out), None, 1, rng.choice([2, 100]))
        except UserError as error:
            if good and certain:
                raise Lost("pack of a folder: some whole pictures are refused", str(error)) from error
            raise
        samples, left, reasons = packed(out)
        if certain and samples != good:
            raise Lost("pack of a folder: other samples than whole pictures", samples, good, reasons)
        if samples + left < good + bad:
            raise Lost("pack of a folder: pictures are lost without a count", samples, left, good, bad)
        return reasons

    return Trial(call)


CELLS = [
    "0.png",
    "a caption",
    "",
    " ",
    "a, b",
    'a "quoted" one',
    "two\nlines",
    "x\0y",
    "http://127.0.0.1:9/x.png",
    "../secret.txt",
    "/etc/passwd",
    "missing.png",
    "\x1b[2J",
    "\ufeff",
    "=cmd|'x'!A0",
    "x" * 10_000,
    "${oc.env:FUZZ_SECRET}",
]


def tables(rng: Random, folder: Path) -> Trial:
    """CSV, TSV and Parquet whose rows are too long, too short, odd. Every row is packed or left out."""
    (folder / "0.png").write_bytes(small())
    (folder / "1.png").write_bytes(small())
    rows = [[rng.choice(["0.png", "1.png"]), f"caption {number}"] for number in range(rng.randint(1, 6))]
    good: list[bool | None] = [True] * len(rows)
    way = rng.randrange(10)
    header = ["image", "caption"]
    for at in range(len(rows)):
        if rng.random() < 0.4:
            spoil = rng.randrange(5)
            if spoil == 0:  # a comma that nobody quoted
                rows[at].append("running on a beach")
                good[at] = False
            elif spoil == 1:
                rows[at] = rows[at][:1]
                good[at] = False
            elif spoil == 2:
                rows[at][0] = rng.choice([cell for cell in CELLS if cell != "0.png"])
                good[at] = None
            elif spoil == 3:
                rows[at][1] = rng.choice(CELLS)
                good[at] = None
            else:
                rows[at] = []
                good[at] = None
    kind = rng.choice(["csv", "csv", "tsv", "parquet"])
    file, out = folder / f"t.{kind}", folder / "out"
    whole = True
    if way == 0:
        header = rng.choice(
            [
                ["image", "image"],
                ["caption", "image", "caption"],
                ["\ufeffimage", "caption"],
                ["Image", "Caption"],
                [],
                ["image"],
                ["image", "caption", "image"],
                ["x\x1b[2J", "caption"],
            ]
        )
        whole = False
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "image": [row[0] if row else None for row in rows],
            "caption": [row[1] if len(row) > 1 else None for row in rows],
        }
        good = [None if fine is not True else True for fine in good]
        if way == 1:
            columns["image"] = [{"bytes": small(), "path": rng.choice(["0.png", "x\0", None])} for _ in rows]
        elif way == 2:
            columns["image"], good = list(range(len(rows))), [False] * len(rows)
        elif way == 3:
            columns["caption"] = [[text] if text else None for text in columns["caption"]]
        pq.write_table(pa.table(columns), file)
        if way == 4:
            file.write_bytes(mutate.data(file.read_bytes(), rng))
            whole = False
    else:
        buffer = io.StringIO(newline="")
        if kind == "csv":
            writer: Any = csv.writer(buffer)
            writer.writerow(header)
            writer.writerows(rows)
        else:
            cells = [[cell.replace("\n", " ").replace("\t", " ") for cell in row] for row in [header, *rows]]
            buffer.write("".join("\t".join(row) + "\n" for row in cells))
        data = buffer.getvalue().encode()
        if way == 5:
            data = rng.choice(
                [
                    mutate.data(data, rng),
                    data.decode().encode("utf-16"),
                    b"\xef\xbb\xbf" + data,
                    data.replace(b"\n", b"\r"),
                    b'"' + data,
                    data[:-7],
                    b"",
                    b"\0" * 50,
                    data + b"\xff\n",
                    b"x" * 2**21,
                ]
            )
            whole = False
        file.write_bytes(data)
    image = rng.choice(["image"] * 8 + [0, "x", 7, "caption"])
    caption: Any = rng.choice(["caption"] * 8 + [1, ["caption", "caption"], [], "x"])
    usual = image == "image" and caption == "caption" and whole

    def call() -> object:
        try:
            table_source.pack(str(file), str(out), None, 1, 100, image, caption, None)
        except UserError as error:
            if usual and any(good) and kind != "parquet":
                raise Lost("pack of a table: some whole rows are refused", str(error)) from error
            raise
        samples, left, reasons = packed(out)
        if usual:
            counted = [fine for row, fine in zip(rows, good, strict=True) if row or kind == "parquet"]
            certain = all(fine is not None for fine in counted)
            if certain and samples != sum(map(bool, counted)):
                raise Lost("pack of a table: other samples than whole rows", samples, counted, reasons)
            if samples + left < len(counted):
                raise Lost("pack of a table: rows are lost without a count", samples, left, len(counted))
        return reasons

    return Trial(call, outputs=lambda: written(out))


def indexing(rng: Random, folder: Path) -> Trial:
    """`pack source=shards` and its `verify` over damaged tars: neither passes over anything."""
    data, end, samples, _ = build(rng)
    (folder / f"a{end}").write_bytes(data)
    verify = rng.random() < 0.5

    def call() -> object:
        shards_source.pack(str(folder / f"a{end}"), str(folder / "out"), None, 1, verify, False, None)
        if verify:
            if False in samples.values():
                raise Lost("verify: no finding in a tar with bad samples", samples)
            return "no finding"
        return (folder / "out" / "index.json").read_text()

    return Trial(call)
