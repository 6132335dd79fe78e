"""index.json, SHARD.idx and addresses: lists from elsewhere of what is to be opened."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutate
from fuzz.cases import Trial, secret_of
from fuzz.oracles import CANARY, Lost
from fuzz.tars import Plan, tar, used

from diptych.data.io.files import Files
from diptych.data.stream.index import open_index, open_sources


def indexes(rng: Random, folder: Path) -> Trial:
    entries: list[dict[str, Any]] = []
    good: dict[str, bool | None] = {}
    for number in range(rng.randint(1, 3)):
        plan = Plan(rng, f"{number}-")
        data = tar(plan.members)
        good |= plan.good
        (folder / f"{number}.tar").write_bytes(data)
        entry = {"path": f"{number}.tar", "samples": len(plan.good), "bytes": len(data)}
        if rng.random() < 0.5:
            each = len(data) // 1536 and 4 * 512
            offsets = [each * n for n in range(len(plan.good) + 1)]
            raw = struct.pack(f"<{len(offsets)}q", *offsets)
            if rng.random() < 0.5:
                lies = [
                    raw[:-3],
                    raw[:-8],
                    b"",
                    raw[::-1],
                    mutate.data(raw, rng),
                    raw.replace(b"\0" * 8, b"\xff" * 8, 1),
                    struct.pack("<q", 2**62) * (len(plan.good) + 1),
                ]
                raw = rng.choice(lies)
                good |= dict.fromkeys(plan.good, None)
            (folder / f"{number}.tar.idx").write_bytes(raw)
            entry["offsets"] = True
        entries.append(entry)
    tree: Any = {"version": 1, "shards": entries}
    way = rng.random()
    whole = way < 0.2
    if way >= 0.5:
        tree = mutate.mutated(tree, rng, secret_of(folder))
    elif not whole:
        entry = rng.choice(entries)
        key = rng.choice(["path", "samples", "bytes", "offsets", "sha256"])
        values: dict[str, list[Any]] = {
            "path": [
                "../secret.txt",
                secret_of(folder),
                "./0.tar",
                "0.tar/../../secret.txt",
                "pipe:touch x",
                "http://127.0.0.1:9/a.tar",
                "a\0b",
                "0.tar#",
                "%2e%2e/x",
                "..\\x",
                "",
                ".",
                "0.tar",
                " 0.tar",
                "a\x1b[2Jb.tar",
                "x" * 5000,
            ],
            "samples": [0, -1, 10**12, 10**30, 1.5, "3", "²", True, None, [3], float("nan"), float("inf"), 2**31],
            "bytes": [0, -1, 10**30, "x", None, entry["bytes"] + 1, float("inf")],
            "offsets": [True, "false", 1, [0, 1]],
            "sha256": ["x", None, 5, "0" * 64],
        }
        entry[key] = rng.choice(values[key])
    try:
        data = json.dumps(tree).encode(errors="surrogatepass")
    except (ValueError, RecursionError):
        data = b"[" * 100_000
    if rng.random() < 0.1:
        data = rng.choice(
            [
                b"\xef\xbb\xbf" + data,
                mutate.data(data, rng),
                data * 2,
                data.decode(errors="replace").encode("utf-16"),
                b"[" * 100_000,
                data[:-2],
            ]
        )
        whole = False
    (folder / "index.json").write_bytes(data)

    def call() -> object:
        index = open_index(str(folder / "index.json"))
        if index.samples > 10**6:
            from diptych.data.stream.order import Order

            Order(index, seed=1, epoch=0, batch_size=8, streams=2).line(0).runs(0)
            return index.samples
        keys, bad = used(index)
        if whole:
            missing = [key for key, fine in good.items() if fine and key not in keys]
            if missing or len(keys) + bad.total() < len(good):
                raise Lost("index: whole samples are lost", missing, bad)
        return keys, bad

    return Trial(call)


HOSTS = [
    "127.0.0.1:9",
    "user:CANARY@127.0.0.1:9",
    "[::1",
    "[::1]:9",
    "²",
    "a b",
    "127.0.0.1:99999",
    "127.0.0.1:x",
    "user:CA/NARY@127.0.0.1",
    "%00",
    "..",
    "",
]


def addresses(rng: Random, folder: Path) -> Trial:
    """What data.shards= may say, secrets in it included; nothing is listening."""
    host = rng.choice(HOSTS).replace("CANARY", CANARY)
    query = rng.choice(["", "", f"?sig={CANARY}", f"?X-Amz-Signature={CANARY}&x", f"#token={CANARY}", "?%zz"])
    kind = rng.choice(
        [
            "http",
            "https",
            "s3",
            "gs",
            "file",
            "ftp",
            "pipe",
            "HTTP",
            "data",
            "simplecache::http",
            "zip",
            "git",
            "jar",
            "",
        ]
    )
    tail = rng.choice(
        [
            "a.tar",
            "{0..3}.tar",
            "{000..999999999}.tar",
            "*.tar",
            "index.json",
            "../x",
            "a\x1b[2J.tar",
            "a\0.tar",
            "a.tar/",
            "",
            "{a,b}.tar",
            "{",
            "{..}",
            "{3..1}.tar",
            "@",
            "[0-9].tar",
            "{{0..9}..{0..9}}.tar",
            "a::b",
            "²",
        ]
    )
    path: Any = (
        f"{kind}://{host}/{tail}{query}"
        if kind
        else rng.choice([tail, str(folder / tail), secret_of(folder), str(folder), ""])
    )
    if kind == "pipe":
        path = rng.choice([f"pipe:touch {folder}/x {CANARY}", "pipe:", "pipe: x", f"PIPE:cat {CANARY}"])
    if rng.random() < 0.2:
        path = rng.choice(
            [[path], [], [path, path], mutate.odd(rng, secret_of(folder)), {"a": path}, [None], [[path]]]
        )
    if rng.random() < 0.1 and isinstance(path, str):
        path = mutate.text(path, rng)

    def call() -> object:
        files = Files(retries=0, timeout=0.2, backoff=0.0)
        if rng.random() < 0.3:
            weight = mutate.odd(rng) if rng.random() < 0.5 else 1.0
            return open_sources({"a": {"shards": path, "weight": weight}}, files).samples
        return open_index(path, files).samples

    return Trial(call, port=9, secrets_in=(CANARY,))
