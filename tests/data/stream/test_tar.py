"""Tars as people make them and as attackers do: what can be read is read, the rest is counted by reason and named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import joined, letters, same

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.pixels.image import TrainImage
from diptych.data.stream.headers import APART, BEHIND, JOINED
from diptych.data.stream.index import Index, open_index, scan
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.shards import BROKEN, CUT, LARGE, TWICE, Damaged, Sample, Shelf
from diptych.data.stream.steps import Steps
from diptych.data.stream.tar import EXPANDS, MACOS
from diptych.data.stream.worker import Place, Stream
from diptych.packing import shards as packing
from diptych.packing.checking import check_shard
from samples import caption, picture

Entries = list[tuple[str, bytes]]


def pairs(first: int, last: int, folder: str = "") -> Entries:
    names = [(f"{folder}{n:03d}", n) for n in range(first, last)]
    return [entry for key, n in names for entry in ((f"{key}.png", picture(n)), (f"{key}.txt", caption(n).encode()))]


def packed(entries: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def header(name: str, size: int, kind: bytes = b"0", field: bytes | None = None) -> bytes:
    """A header that says whatever it is told, with a right checksum."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))[:512]
    block[124:136] = field if field is not None else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def samples(path: str, max_bad: float = 1.0) -> list[Sample | Damaged]:
    return read(open_index(path, max_bad=max_bad))


def read(index: Index) -> list[Sample | Damaged]:
    (shard,) = index.shards
    return list(Shelf(index, Files(), 0).samples(0, 0, shard.samples))


def keys(found: list[Sample | Damaged]) -> list[str]:
    return [item.reason if isinstance(item, Damaged) else item["__key__"] for item in found]


FORMATS = ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"]


@pytest.mark.parametrize("form", FORMATS)
def test_sparse_files_of_gnu_tar_are_read_or_counted(tmp_path: Path, form: str) -> None:
    """One with two holes, one of 4 GB that holds nothing; what stands beside and behind them is read."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in pairs(0, 4):
        (folder / name).write_bytes(data)
    with (folder / "001.bmp").open("wb") as file:
        for place in (0, 65536, 131072):
            file.seek(place)
            file.write(bytes([place % 251 + 1]) * 16384)
    with (folder / "002.png").open("wb") as file:
        file.truncate(2**32)
    command = [
        "tar",
        "-S",
        *f"--format={form}".split(),
        "--sort=name",
        "-cf",
        str(tmp_path / "a.tar"),
        "-C",
        str(folder),
    ]
    subprocess.run([*command, "000.png", "000.txt", "001.bmp", "001.txt", "002.png", "002.txt", "003.png", "003.txt"],
                   check=True)  # fmt: skip
    assert (tmp_path / "a.tar").stat().st_size < 150_000
    tracemalloc.start()
    found = samples(str(tmp_path / "a.tar"), max_bad=0.0)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert keys(found) == ["000", "001", "file of more than 1073741824 bytes in the tar", "003"]
    assert found[1]["bmp"] == (folder / "001.bmp").read_bytes()  # type: ignore[index]
    assert found[3]["png"] == picture(3)  # type: ignore[index]
    findings = check_shard(str(tmp_path / "a.tar"), None).findings
    assert {finding.key for finding in findings} == {"001", "002"}  # 001.bmp is no picture, 002.png is too large


def test_a_sparse_file_fills_no_more_than_a_few_times_its_bytes(tmp_path: Path) -> None:
    """GNU's old format, 100 MB from one block."""
    block = bytearray(header("1.png", 512, b"S"))
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % 100_000_000
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    sparse = bytes(block) + b"x" * 512
    data = packed(pairs(0, 1))
    end = int(scan(write(tmp_path / "a.tar", data))[1][-1])  # type: ignore[index]
    path = write(tmp_path / "a.tar", data[:end] + sparse + packed([("1.txt", b"x"), *pairs(2, 3)]))
    assert keys(samples(path)) == [
        "000",
        f"sparse file that fills more than {EXPANDS} times its bytes in the tar",
        "002",
    ]


HOSTILE = {
    "more than the tar": header("1.png", 2**33 - 1),
    "a negative size": header("1.png", 0, field=b"\xff" * 12),
    "8 exabytes": header("1.png", 0, field=b"\x80\0\0\0\x7f" + b"\xff" * 7),
    "a long name of 8 GB": header("././@LongLink", 2**33 - 1, b"L"),
    "a pax header of 8 GB": header("x", 2**33 - 1, b"x"),
    "a pax header in a pax header": header("x", 0, b"x") * 500,
    "a pax field longer than its header": header("x", 20, b"x") + b"99999999 path=a\n".ljust(512, b"\0"),
    "a pax field without a number": header("x", 20, b"x") + "²² path=a\n".encode().ljust(512, b"\0"),
    "a pax size of 5,000 digits": header("x", 5008, b"x") + b"5008 size=".ljust(5007, b"9") + b"\n".ljust(113, b"\0"),
    "a sparse map without end": header("x", 78, b"x")
    + b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n34 GNU.sparse.realsize=4294967296\n".ljust(512, b"\0")
    + header("1.png", 512) + b"1" * 512,
    "parts out of order": header("x", 60, b"x")
    + b"22 GNU.sparse.size=999\n36 GNU.sparse.map=500,400,0,400\n".ljust(512, b"\0") + header("1.png", 0),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_header_is_not_believed(tmp_path: Path, what: str) -> None:
    """Only what the header is of is lost, and nothing is read, held or expanded by its word."""
    before = packed(pairs(0, 2))
    end = int(scan(write(tmp_path / "a.tar", before))[1][-1])  # type: ignore[index]
    path = write(tmp_path / "a.tar", before[:end] + HOSTILE[what] + packed([("1.txt", b"x"), *pairs(2, 4)]))
    tracemalloc.start()
    found = keys(samples(path))
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert found[:2] == ["000", "001"] and found[-2:] == ["002", "003"]
    assert {"002", "003", "1"}.isdisjoint(found[2:3])
    with pytest.raises(UserError, match=r"a\.tar is cut or damaged after 2 samples .*restore it"):
        open_index(path)
    assert any(finding.kind == "damaged tar" for finding in check_shard(path, None).findings)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_tar_holds_it_is_walked_to_its_end(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(packed(pairs(0, 3)) + packed(pairs(3, 5)))
    for _ in range(data.draw(st.integers(1, 4))):
        block = data.draw(st.integers(0, len(content) // 512 - 1)) * 512
        place = block + data.draw(st.sampled_from([0, 100, 124, 130, 148, 156, 257, 345, 400]))
        content[place] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            content[block + 148 : block + 156] = b" " * 8
            content[block + 148 : block + 156] = b"%06o\0 " % sum(content[block : block + 512])
    content = content[: data.draw(st.integers(600, len(content)))]
    path = write(tmp_path_factory.mktemp("walked") / "a.tar", bytes(content))
    try:
        index = open_index(path, max_bad=1.0)
    except UserError:
        return
    found = read(index)
    lost = sum(isinstance(item, Damaged) for item in found)
    assert len(found) == index.samples and lost >= sum(count for count, _ in index.damage.values())
    assert lost == 0 or index.damage or check_shard(path, None).findings


@pytest.mark.parametrize("kind", ["tar", "gzip each", "gzip all"])
def test_joined_tars_are_read_on(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`cat a.tar b.tar`: an index, training and the check count the same."""
    first, second = packed(pairs(0, 6)), packed(pairs(6, 10))
    joint = {"tar": first + second, "gzip each": gzip.compress(first) + gzip.compress(second)}
    path = write(tmp_path / "a.tar", joint.get(kind, gzip.compress(first + second)))
    index = open_index(path)
    assert index.samples == 10 and keys(read(index)) == [f"{n:03d}" for n in range(10)]
    assert index.not_taken() == {JOINED: {"a.tar": 1}} and "tars joined" in next(index.warnings())
    checked = check_shard(path, None)
    assert checked.samples == 10
    assert [finding.describe()["reason"] for finding in checked.findings] == [
        f"damaged tar: empty block at byte {scan(write(tmp_path / 'b.tar', first))[1][-1]}, where readers stop,"  # type: ignore[index]
        " before more files, after 005"
    ]
    (tmp_path / "b.tar").unlink()
    packing.pack(path, str(tmp_path), None, 1, False, False, None)
    assert "10 samples in 1 shard\n  left out: 1 × end marker before more files" in capsys.readouterr().out
    again = open_index(str(tmp_path / "index.json"))
    assert keys(read(again)) == keys(read(index))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_are_read_whatever_packed_them(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    index = open_index(write(tmp_path / "a.tar", pack(packed(pairs(0, 6)))))
    assert keys(read(index)) == [f"{n:03d}" for n in range(6)]


def test_rubbish_behind_the_end_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", packed(pairs(0, 6)) + b"rubbish" * 300)
    index = open_index(path)
    assert keys(read(index)) == [f"{n:03d}" for n in range(6)] and index.not_taken() == {BEHIND: {"a.tar": 1}}
    assert [finding.kind for finding in check_shard(path, None).findings] == ["damaged tar"]


def test_what_is_part_of_no_sample_is_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number, (name, data) in enumerate(pairs(0, 4, "d/")):
            folder, _, last = name.rpartition("/")
            for entry, content in ((f"{folder}/._{last}", b"\0\5\x16\7"), (name, data)):
                member = tarfile.TarInfo(entry)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            if number == 3:
                for kind, entry in ((b"5", "d/e"), (b"1", "d/x.png"), (b"2", "d/y.png"), (b"3", "z.png")):
                    member = tarfile.TarInfo(entry)
                    member.type, member.linkname = kind, "d/000.png"
                    tar.addfile(member)
                for entry in (
                    "d/.DS_Store",
                    "__MACOSX/d/000.png",
                    "d/.hidden.png",
                    "README",
                    "__meta__",
                    f"{'n/' * 4000}x.png",
                ):
                    tar.addfile(tarfile.TarInfo(entry))
    index = open_index(str(path))
    assert keys(read(index)) == [f"d/{n:03d}" for n in range(4)]
    assert {reason: sum(of.values()) for reason, of in index.not_taken().items()} == {
        MACOS: 8 + 2, "folder": 1, "hard link": 1, "symbolic link": 1, "neither a file nor a folder": 1,
        "hidden file": 1, "name without an extension": 1, "webdataset's own file (__NAME__)": 1,
        "name of more than 4096 characters": 1,
    }  # fmt: skip
    checked = check_shard(str(path), None)
    assert checked.samples == 4 and checked.left_out == {"folder": 1, "webdataset's own file (__NAME__)": 1}
    assert len(checked.findings) == 10 + 6 and {finding.kind for finding in checked.findings} == {"no key"}


def test_files_of_one_sample_that_are_not_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All pictures, then all texts: each half is a bad sample, and the reason is told."""
    entries = pairs(0, 6)
    path = write(tmp_path / "a.tar", packed(entries[::2] + entries[1::2]))
    index = open_index(path)
    assert index.samples == 12 and index.not_taken() == {APART: {"a.tar": 6}}
    packing.pack(path, str(tmp_path), None, 1, False, False, None)
    assert f"left out: 6 × {APART}, as a.tar: 000" in capsys.readouterr().out
    stream = Stream(
        Order(index, seed=1, epoch=0, batch_size=4, streams=2),
        Pairs(TrainImage(24), letters),
        start=0,
        stop=2,
        place=Place(),
        memory=0,
    )
    with pytest.raises(
        UserError, match=r"No sample of a whole block.* neighbours in the tar.* fewer data\.streams \(2 now\)"
    ):
        list(Steps(stream, 0, 1.0))


def test_a_file_twice_in_a_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", packed([*pairs(0, 1), ("000.TXT", b"again"), *pairs(1, 2)]))
    assert keys(samples(path)) == [TWICE.reason, "001"]


@pytest.mark.parametrize("kept", [0.2, 0.55, 0.8])
def test_a_cut_tar_is_read_to_its_cut_whatever_the_layout(tmp_path: Path, kept: float) -> None:
    whole = packed(pairs(0, 24))
    offsets = scan(write(tmp_path / "a.tar", whole))[1]
    size = int(offsets[-1] * kept)  # type: ignore[index]
    path = write(tmp_path / "a.tar", whole[:size])
    write(tmp_path / "b.tar", packed(pairs(24, 40)))
    good = int((offsets[1:] <= size).sum())  # type: ignore[index]
    with pytest.raises(
        UserError, match=rf"a\.tar is cut or damaged after {good} samples .*data\.max_bad=0\.01 allows"
    ):
        open_index(str(tmp_path / "*.tar"), max_bad=0.01)
    index = open_index(str(tmp_path / "*.tar"), max_bad=0.5)
    assert index.samples == good + 1 + 16 and index.damage[path][0] == 1
    made = []
    for ranks, workers in ((1, 0), (2, 0)):
        runs = []
        for rank in range(ranks):
            stream = Stream(
                Order(index, seed=5, epoch=0, batch_size=8, streams=4, block=16),
                Pairs(TrainImage(24), letters),
                start=0,
                stop=4,
                place=Place(rank, ranks),
                memory=0,
            )
            runs.append(Steps(stream, workers, 0.5))
        made.append(joined([list(run) for run in runs]))
        assert {reason for run in runs for reason in run.skipped} <= {CUT.reason}
    assert same(*made)
    used = {key for batch in made[0] for key in batch.keys}
    assert used <= {f"a.tar/{n:03d}" for n in range(good)} | {f"b.tar/{n:03d}" for n in range(24, 40)}


def test_a_damaged_header_costs_a_sample_of_a_tar_without_an_index(tmp_path: Path) -> None:
    data = bytearray(packed(pairs(0, 8)))
    offsets = scan(write(tmp_path / "a.tar", bytes(data)))[1]
    data[int(offsets[3])] ^= 0x55  # type: ignore[index] # the picture of 003
    found = keys(samples(write(tmp_path / "a.tar", bytes(data))))
    assert found == ["000", "001", "002", BROKEN.reason, "003", *[f"00{n}" for n in range(4, 8)]]


def test_damage_before_a_cut_entry_that_is_part_of_no_sample(tmp_path: Path) -> None:
    """The two are one loss, and offsets never fall."""
    before = packed(pairs(0, 2))
    end = int(scan(write(tmp_path / "a.tar", before))[1][-1])  # type: ignore[index]
    path = write(tmp_path / "a.tar", before[:end] + b"x" * 1024 + header("README", 2**20) + b"x" * 700)
    assert keys(samples(path)) == ["000", "001", CUT.reason]


def test_gzip_that_unpacks_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.stream.shards.UNPACKED", 2**20)
    bomb = gzip.compress(packed([*pairs(0, 2), ("002.png", bytes(2**24)), ("002.txt", b"x"), *pairs(3, 4)]))
    index = open_index(write(tmp_path / "a.tar.gz", bomb))
    assert index.samples == 4 and index.shards[0].bytes < 60_000
    assert keys(read(index))[:2] == ["000", "001"]
    assert [reason[:34] for reason in keys(read(index))[2:]] == ["in a shard that unpacks to more th"] * 2


def test_a_sample_of_a_gigabyte_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.stream.shards.LARGEST", 10**6)
    path = write(tmp_path / "a.tar", packed([*pairs(0, 1), ("001.png", bytes(2 * 10**6)), *pairs(2, 3)]))
    assert keys(samples(path)) == ["000", LARGE.reason, "002"]


def test_keys_of_joined_tars_that_repeat_are_samples_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that stands in both tars is packed, so none of it is left out; verify names the doubled keys."""
    path = write(tmp_path / "a.tar", packed(pairs(0, 8)) + packed(pairs(3, 6)))
    index = open_index(path)
    assert index.samples == 11 and index.not_taken() == {JOINED: {"a.tar": 1}}
    packing.pack(path, str(tmp_path), None, 1, False, False, None)
    assert "12 seen = 11 packed + 1 left out" in capsys.readouterr().out
