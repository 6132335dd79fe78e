"""Every kind of damage is named, with its shard and its sample, and nothing else is."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import write_folder
from PIL import Image

from diptych.base.errors import UserError
from diptych.data.stream.index import scan
from diptych.packing import folder, shards
from samples import picture, write_shards

Files = list[tuple[str, bytes]]


def sample(key: str, number: int = 0) -> Files:
    return [(f"{key}.png", picture(number)), (f"{key}.txt", b"a caption")]


def write(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def verify(path: Path | str, out: Path, workers: int = 1) -> list[tuple[str, str | None, str]]:
    """What is found, as (name of the shard, key, reason)."""
    file = out / "verify.json"
    file.unlink(missing_ok=True)
    try:
        shards.pack(str(path), str(out), None, workers, True, True, None)
    except UserError as error:
        assert str(file) in str(error)
        assert json.loads(file.read_text())
    else:
        assert json.loads(file.read_text()) == []
    return [(Path(of["shard"]).name, of["key"], of["reason"]) for of in json.loads(file.read_text())]


def bomb() -> bytes:
    """A PNG that says it has 30,000 by 30,000 pixels."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "key", "reason"),
    [
        ([("k.png", b""), ("k.txt", b"x")], "k", "zero bytes: .png"),
        ([("k.png", b"<html>"), ("k.txt", b"x")], "k", "not an image: .png"),
        ([("k.png", picture(0)[:-60]), ("k.txt", b"x")], "k", "damaged image: .png: not a readable image"),
        ([("k.jpg", picture(0, form="JPEG")[:-200]), ("k.txt", b"x")], "k", "damaged image: .jpg: not a readable"),
        ([("k.png", deep()), ("k.txt", b"x")], "k", "damaged image: .png: image of mode I;16"),
        ([("k.png", bomb()), ("k.txt", b"x")], "k", "decompression bomb: .png"),
        ([("k.jpg", picture(0)), ("k.txt", b"x")], "k", "wrong extension: .jpg holds png"),
        ([("k.png", picture(0))], "k", "missing caption: no caption"),
        ([("k.png", picture(0)), ("k.txt", b" \n")], "k", "missing caption: empty caption"),
        ([("k.png", picture(0)), ("k.txt", b"caf\xe9")], "k", "missing caption: caption file is not readable text"),
        ([("k.png", picture(0)), ("k.json", b'{"captions": []}')], "k", "missing caption: captions in its"),
        ([("k.txt", b"x")], "k", "missing image: among .txt"),
        ([*sample("k"), ("k.PNG", picture(1))], "k", "duplicate key: two files .png in the sample"),
        ([*sample("k"), *sample("l", 1), *sample("k", 2)], "k", "duplicate key: twice in the shard"),
        ([sample("k")[0], *sample("l", 1), sample("k")[1]], "k", "key split over files"),
        ([*sample("k"), ("._k.png", b"x")], "._k.png", "no key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_of_a_sample(tmp_path: Path, files: Files, key: str, reason: str) -> None:
    shard = write(tmp_path / "0.tar", [*sample("before", 3), *files, *sample("behind", 4), ("__meta__", b"")])
    ((found, of, why),) = verify(shard, tmp_path)
    assert (found, of) == ("0.tar", key) and why.startswith(reason)


def test_sound_shards_have_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "packed"
    folder.pack(str(write_folder(tmp_path / "in", 20)), str(packed), None, 1, 8)
    for path in (packed, packed / "index.json", packed / "train-{000000..000002}.tar"):
        assert verify(path, tmp_path) == []
    assert "20 samples in 3 shards, 0 findings" in capsys.readouterr().out
    (tmp_path / "1.tar").write_bytes(gzip.compress((packed / "train-000001.tar").read_bytes()))
    assert verify(tmp_path / "1.tar", tmp_path) == []


def test_keys_of_several_shards(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", [*sample("a"), *sample("b", 1)])
    write(tmp_path / "1.tar", [*sample("c"), *sample("a", 1)])
    write(tmp_path / "2.tar", [*sample("d"), *sample("a", 1), *sample("c", 2)])
    expected = {("1.tar", "a", "0.tar"), ("2.tar", "a", "0.tar"), ("2.tar", "c", "1.tar")}
    for workers in (1, 2):
        found = verify(tmp_path / "{0..2}.tar", tmp_path, workers)
        assert {(shard, key, Path(reason.split()[-1]).name) for shard, key, reason in found} == expected
        assert all(reason.startswith("duplicate key: also in") for _, _, reason in found) and len(found) == 3


def cut(tmp_path: Path, index: bool) -> tuple[Path, np.ndarray]:
    """A shard of eight samples, with or without its index -> (shard, where its samples begin)"""
    folder.pack(str(write_folder(tmp_path / "in", 8)), str(tmp_path / "out"), None, 1, 8)
    shard = tmp_path / "out/train-000000.tar"
    offsets = np.fromfile(f"{shard}.idx", dtype="<i8")
    if not index:
        for file in (tmp_path / "out/index.json", Path(f"{shard}.idx")):
            file.unlink()
    return shard, offsets


@pytest.mark.parametrize("index", [True, False])
def test_a_cut_tar_names_the_sample_that_is_cut_and_those_that_are_gone(tmp_path: Path, index: bool) -> None:
    shard, offsets = cut(tmp_path, index)
    size = int(offsets[5]) + 1600
    shard.write_bytes(shard.read_bytes()[:size])
    found = verify(shard, tmp_path)
    assert found[0][:2] == (shard.name, "000000005")
    assert re.fullmatch(r"damaged tar: truncated within \.png, packed from \w+/\d+\.png", found[0][2])
    reasons = [reason for _, _, reason in found[1:]]
    if not index:
        assert reasons == []
        return
    assert [reason.split(",")[0] for reason in reasons[:2]] == [f"index disagrees: sample {n}" for n in (6, 7)]
    assert reasons[2:] == [
        "index disagrees: 8 samples in the index, 6 in the tar",
        f"index disagrees: {10240 * -(-offsets[-1] // 10240)} bytes in the index, {size} in the tar",
    ]


@pytest.mark.parametrize("index", [True, False])
def test_a_cut_between_samples_is_seen(tmp_path: Path, index: bool) -> None:
    """Where webdataset reads five samples and says nothing."""
    shard, offsets = cut(tmp_path, index)
    shard.write_bytes(shard.read_bytes()[: int(offsets[5])])
    assert (shard.name, None, "damaged tar: truncated: it has no end marker, after 000000004") in verify(
        shard, tmp_path
    )


def test_a_cut_within_a_header_is_a_cut(tmp_path: Path) -> None:
    """As webdataset writes them by default, a file has an extended header with its time before its own."""
    index = write_shards(tmp_path / "tars", [8], index=False)
    shard = index.with_name("train-000000.tar")
    data, begin = shard.read_bytes(), int(scan(str(shard))[1][6])
    for more in (100, 600, 1100, 1400):
        shard.write_bytes(data[: begin + more])
        ((_, key, reason),) = verify(shard, tmp_path)
        assert key is None and reason.startswith("damaged tar: truncated") and reason.endswith("after 000005")


@pytest.mark.parametrize("what", ["noise", "zeros"])
@pytest.mark.parametrize("index", [True, False])
def test_reading_goes_on_behind_damage(tmp_path: Path, index: bool, what: str) -> None:
    """One whole sample is overwritten: it is lost, and a fault in the last sample is still found."""
    shard, offsets = cut(tmp_path, index)
    data, (begin, end) = bytearray(shard.read_bytes()), offsets[2:4].tolist()
    data[begin:end] = np.random.default_rng(0).bytes(end - begin) if what == "noise" else bytes(end - begin)
    last = data.index(b"IDAT", offsets[7])
    data[last + 4 : last + 40] = bytes(36)
    shard.write_bytes(bytes(data))
    found = verify(shard, tmp_path)
    broken = f"damaged header at byte {begin}" if what == "noise" else f"empty block at byte {begin}"
    assert found[0][:2] == (shard.name, None) and found[0][2].startswith(f"damaged tar: {broken}")
    assert found[0][2].endswith("after 000000001")
    (image,) = (reason for _, key, reason in found if key == "000000007")
    assert image.startswith("damaged image: .png: not a readable image, packed from ")
    gone = f"index disagrees: sample 2, at byte {begin} by {shard.name}.idx, does not begin there"
    assert ((shard.name, None, gone) in found) is index
    assert len(found) == (5 if index else 2)


def test_an_index_that_disagrees(tmp_path: Path) -> None:
    shard, _ = cut(tmp_path, True)
    index = shard.parent / "index.json"
    entry = json.loads(index.read_text())["shards"][0]
    for change, reason in (
        ({"samples": 9}, "9 samples in the index, 8 in the tar"),
        ({"bytes": 1}, f"1 bytes in the index, {entry['bytes']} in the tar"),
        ({"sha256": "0"}, "the tar has another SHA-256"),
    ):
        index.write_text(json.dumps({"version": 1, "shards": [{**entry, **change}]}))
        assert verify(shard, tmp_path) == [(shard.name, None, f"index disagrees: {reason}")]
        assert verify(index, tmp_path) == [(shard.name, None, f"index disagrees: {reason}")]
    index.unlink()
    idx = Path(f"{shard}.idx")
    idx.write_bytes(idx.read_bytes()[8:])
    assert verify(shard, tmp_path) == [
        (shard.name, None, f"index disagrees: not in {shard.name}.idx: 1 sample of the tar")
    ]
    idx.write_bytes(idx.read_bytes()[4:])
    assert verify(shard, tmp_path) == [(shard.name, None, f"index disagrees: {shard.name}.idx is cut")]


def test_missing_and_foreign_shards_and_a_cut_gzip(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", sample("a"))
    (tmp_path / "2.tar").write_bytes(b"not a tar" * 500)
    packed = gzip.compress(write(tmp_path / "x.tar", sample("b")).read_bytes())
    (tmp_path / "3.tar").write_bytes(packed[:-20])
    (tmp_path / "4.tar").write_bytes(b"")
    found = verify(tmp_path / "{0..4}.tar", tmp_path)
    assert [(shard, key) for shard, key, _ in found] == [(f"{n}.tar", None) for n in range(1, 5)]
    reasons = ["missing shard: No such file", "damaged tar: damaged header at byte 0", "damaged tar: trunc"]
    for (_, _, reason), start in zip(found, [*reasons, "damaged tar: truncated: it has no end"], strict=True):
        assert reason.startswith(start)


def test_the_command_ends_with_a_table_and_a_code(cli, tmp_path: Path) -> None:
    write(tmp_path / "000.tar", [*sample("a"), ("b.png", picture(1))])
    write(tmp_path / "001.tar", [("c\x1b[2J.png", b""), ("c\x1b[2J.txt", b"x")])
    ended = cli("pack", "source=shards", "path={000..001}.tar", "verify=true")
    assert ended.code == 2
    assert ended.err == (
        "diptych: 2 findings in 2 of 2 shards, all in verify.json:"
        " restore these shards, or pack again without these samples.\n"
    )
    lines = ended.out.splitlines()
    assert lines[0] == "3 samples in 2 shards, 2 findings: verify.json"
    assert [line.split("  ")[0] for line in lines[2:]] == ["missing caption", "zero bytes"]
    assert "\x1b" not in ended.out
    assert {of["key"] for of in json.loads((tmp_path / "verify.json").read_text())} == {"b", "c\x1b[2J"}


def test_a_finding_names_the_file_that_was_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = json.dumps({"source": "cats/\x1b1.png"}).encode()
    damaged = [("000.png", picture(0)[:60]), ("000.txt", b"a cat"), ("000.json", source)]
    no_caption = [("001.png", picture(1)), ("001.json", json.dumps({"source": "cats/2.png"}).encode())]
    unnamed = [("002.png", picture(2)), ("002.json", b"{")]
    shard = write(tmp_path / "a.tar", [*damaged, *no_caption, *unnamed])
    found = {key: reason for _, key, reason in verify(shard, tmp_path)}
    assert found["000"].startswith("damaged image: .png: ") and found["000"].endswith(r", packed from cats/\x1b1.png")
    assert found["001"].endswith(", packed from cats/2.png") and "packed from" not in found["002"]
    assert r"packed from cats/\x1b1.png" in capsys.readouterr().out
