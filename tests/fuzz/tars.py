"""Tars: damaged, joined, sparse, disordered. What the generator put in must come out as used or counted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import torch
from fuzz import mutate
from fuzz.cases import Trial
from fuzz.oracles import Lost
from fuzz.pictures import CAPTIONS, JSONS
from PIL import Image

from diptych.data.io.files import Files
from diptych.data.pixels.image import TrainImage
from diptych.data.stream.index import Index, open_index
from diptych.data.stream.pairs import BadSample, Pairs
from diptych.data.stream.shards import Damaged, read

Member = tuple[tarfile.TarInfo, bytes]


@cache
def small() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, **of: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    for key, value in of.items():
        setattr(info, key, value)
    return info, data


def tar(members: list[Member], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as writer:
        for info, data in members:
            writer.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


class Plan:
    """Samples by key: whether a training can use it (None: both are right). text: what stands in its .txt"""

    def __init__(self, rng: Random, prefix: str = "") -> None:
        self.members: list[Member] = []
        self.good: dict[str, bool | None] = {}
        for number in range(rng.randint(1, 7)):
            key = f"{prefix}{number:03d}"
            self.good[key] = True
            self.members += [member(f"{key}.png", small()), member(f"{key}.txt", f"caption of {key}".encode())]


def spoil(plan: Plan, rng: Random) -> None:
    """Change what samples hold, without a change to the tar's structure."""
    for key in rng.sample(sorted(plan.good), rng.randint(1, len(plan.good))):
        at = next((n for n, (info, _) in enumerate(plan.members) if info.name == f"{key}.png"), None)
        if at is None:
            continue
        way = rng.randrange(9)
        if way == 0:
            plan.members[at] = member(f"{key}.png", small()[:40])
            plan.good[key] = False
        elif way == 1:
            del plan.members[at]
            plan.good[key] = False
        elif way == 2:
            plan.members[at + 1] = member(f"{key}.txt", rng.choice([b"", b"  \n", b"\xff\xfe\xfa"]))
            plan.good[key] = False
        elif way == 3:
            plan.members[at + 1] = member(f"{key}.json", rng.choice(JSONS))
            plan.good[key] = None
        elif way == 4:
            plan.members.insert(at, member(f"{key}.png", small()))  # a name twice
            plan.good[key] = False
        elif way == 5:
            plan.members[at + 1] = member(f"{key}.txt", rng.choice(CAPTIONS))
            plan.good[key] = None
        elif way == 6:
            plan.members[at] = member(
                f"{key}.png",
                b"",
                rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]),
                linkname=rng.choice(["/etc/passwd", "../x", f"{key}.txt"]),
            )
            plan.good[key] = False
        elif way == 7:
            plan.members[at + 1] = member(f"{key}.notes", b"x")
            plan.good[key] = False
        else:
            plan.members.insert(at + 1, member(f"{key}.json", b'{"caption": "other"}'))


def add_strangers(plan: Plan, rng: Random) -> None:
    """Members that belong to no sample, or to one of their own that gives no pair."""
    for _ in range(rng.randint(1, 3)):
        at = 2 * rng.randrange(len(plan.good)) if len(plan.members) == 2 * len(plan.good) else 0
        kind = rng.choice([tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.SYMTYPE])
        plan.members[at:at] = rng.choice(
            [
                [member("folder", b"", kind, linkname="x")],
                [member("__meta__/x.json", b"{}")],
                [member("README", b"no extension")],
                [member("deep/" * 30 + "README", b"long")],
            ]
        )


def build(rng: Random) -> tuple[bytes, str, dict[str, bool | None], bool]:
    """(the tar, the end of its name, its samples, whether a refusal of the whole is right)"""
    plan = Plan(rng)
    if rng.random() < 0.5:
        spoil(plan, rng)
    if rng.random() < 0.3:
        add_strangers(plan, rng)
    form = rng.choice([tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
    good, members = plan.good, plan.members
    way = rng.randrange(16)
    if way <= 3:
        return tar(members, form), ".tar", good, not any(good.values())
    if way == 4:  # joined end to end
        second = Plan(rng, "b")
        return tar(members, form) + tar(second.members, form), ".tar", good | second.good, True
    if way == 5:  # the same, compressed
        second = Plan(rng, "b")
        pack = rng.choice([gzip.compress, bz2.compress, lzma.compress])
        parts = tar(members, form), tar(second.members, form)
        data = pack(parts[0] + parts[1]) if rng.random() < 0.5 else pack(parts[0]) + pack(parts[1])
        return data, rng.choice([".tar.gz", ".tgz", ".tar", ".tar.xz", ".tar.bz2"]), good | second.good, True
    if way == 6:
        pack = rng.choice([gzip.compress, bz2.compress, lzma.compress])
        return pack(tar(members, form)), rng.choice([".tar.gz", ".tar"]), good, True
    if way == 7:  # cut: what lies behind may be refused or counted, never used
        data = tar(members, form)
        return data[: rng.randrange(1, len(data))], ".tar", dict.fromkeys(good), True
    if way == 8:  # files of one sample that aren't neighbours
        pictures = [m for m in members if m[0].name.endswith(".png")]
        apart = pictures + [m for m in members if m not in pictures]
        keys = [key for info, _ in apart if (key := info.name.partition(".")[0]) in good]
        close = {key for key in good if keys[keys.index(key) :][: keys.count(key)] == [key] * keys.count(key)}
        return tar(apart, form), ".tar", {key: good[key] if key in close else False for key in good}, True
    if way == 9:  # macOS's AppleDouble members beside the samples
        doubled = [new for m in members for new in (member(f"._{m[0].name}", b"\x00\x05\x16\x07" + bytes(80)), m)]
        return tar(doubled, form), ".tar", dict.fromkeys(good), True
    if way == 10:  # sparse, as `tar -S` writes it: a map says where the bytes of a large file are
        info, data = member("zzz.png", small())
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "zzz.png",
            "GNU.sparse.realsize": str(rng.choice([10**3, 10**3, 10**4, 10**9, 10**11])),
        }
        body = b"1\n0\n%d\n" % len(data)
        body = body.ljust(512, b"\0") + data
        info.size = len(body)
        return (
            tar([*members, (info, body), member("zzz.txt", b"sparse")], tarfile.PAX_FORMAT),
            ".tar",
            good | {"zzz": None},
            True,
        )
    if way == 11:  # an old GNU sparse header
        data = bytearray(tar([*members, member("zzz.png", small()), member("zzz.txt", b"sparse")]))
        at = data.find(b"zzz.png")
        data[at + 156 : at + 157] = b"S"
        data[at + 386 : at + 482] = (b"%011o\0%011o\0" % (0, 70)).ljust(96, b"\0")
        data[at + 483 : at + 495] = b"%011o\0" % rng.choice([10**3, 10**6, 10**9])
        data[at + 148 : at + 156] = b"        "
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        return bytes(data), ".tar", good | {"zzz": None}, True
    if way == 12:  # a size that lies
        data = bytearray(tar(members, form))
        at = data.find(b"000.txt")
        if at >= 0:
            data[at + 124 : at + 136] = rng.choice(
                [b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"abc".ljust(12)]
            )
            if rng.random() < 0.8:
                data[at + 148 : at + 156] = b"        "
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        return bytes(data), ".tar", dict.fromkeys(good, None), True
    if way == 13:  # pax headers from elsewhere
        info, body = members[0]
        info.pax_headers = rng.choice(
            [
                {"size": "-1"},
                {"size": "9" * 30},
                {"path": "../../x.png"},
                {"path": "x\0y.png"},
                {"hdrcharset": "BINARY"},
                {"mtime": "nan"},
                {"comment": "x" * 10**5},
            ]
        )
        return tar(members, tarfile.PAX_FORMAT), ".tar", dict.fromkeys(good, None), True
    if way == 14:  # odd names
        names = ["../../x", "/abs", "a/../b", "a\nb", "a\x1b[2Jb", "ü", "x" * 90, "a b", "...", "nul\udc80", "CON"]
        odd = rng.sample(names, rng.randint(1, 4))
        extra = [new for name in odd for new in (member(f"{name}.png", small()), member(f"{name}.txt", b"odd"))]
        return tar([*members, *extra], form), ".tar", good | dict.fromkeys(odd, None), True
    return mutate.data(tar(members, form), rng), ".tar", dict.fromkeys(good), True


def letters(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[ord(c) for c in text[:24].ljust(24)] for text in texts])


def used(index: Index, files: Files | None = None) -> tuple[list[str], Counter[str]]:
    """(keys that gave a pair, reason -> samples that gave none), as the stream's own readers give them."""
    pairs, keys, bad = Pairs(TrainImage(8), letters), [], Counter[str]()
    files = files or Files()
    for number, shard in enumerate(index.shards):
        for found in read(shard, 0, shard.samples, files, index.offsets(number, files)):
            if isinstance(found, Damaged):
                bad[found.reason] += 1
                continue
            try:
                pairs(found, 7)
                keys.append(str(found["__key__"]))
            except BadSample as error:
                bad[str(error)] += 1
    return keys, bad


def check(samples: dict[str, bool | None], index: Index, keys: list[str], bad: Counter[str], what: str) -> None:
    """Every sample that the generator knows is used or counted; good ones are used, once, and bad ones not."""
    if index.samples != len(keys) + bad.total():
        raise Lost(f"{what}: the index counts other samples than came", index.samples, len(keys), bad)
    ours = [key for key in keys if key in samples]
    if len(set(ours)) < len(ours):
        raise Lost(f"{what}: a sample is used twice", ours)
    if wrong := [key for key in ours if samples[key] is False]:
        raise Lost(f"{what}: a sample is used that gives no pair", wrong)
    missing = [key for key, good in samples.items() if good and key not in ours]
    if missing:
        raise Lost(
            f"{what}: whole samples are lost" + ("" if bad.total() >= len(missing) else " without a count"),
            missing,
            bad,
        )
    if len(ours) + bad.total() < len(samples):
        raise Lost(f"{what}: samples are lost without a count", sorted(samples), ours, bad)


def tars(rng: Random, folder: Path) -> Trial:
    data, end, samples, may_refuse = build(rng)
    file = folder / f"a{end}"
    file.write_bytes(data)

    def call() -> object:
        from diptych.base.errors import UserError

        try:
            index = open_index(str(file))
        except UserError as error:
            if not may_refuse:
                raise Lost("a tar of some whole samples is refused", str(error)) from error
            raise
        keys, bad = used(index)
        certain = not any(good is None for good in samples.values())
        check(
            samples if certain or not may_refuse else {k: g for k, g in samples.items() if g is not None},
            index,
            keys,
            bad,
            "tar",
        )
        return keys, bad

    return Trial(call)
