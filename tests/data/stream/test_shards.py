"""Each sample of a tar is read by itself: damage to one is named and leaves the others."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.index import Index, Offsets, Shard, open_index, scan
from diptych.data.stream.shards import BROKEN, CUT, Damaged, Sample, Shelf, read, read_whole

FILES = Files()


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Ten samples of three files each, one with a name too long for a plain header, one with a folder before it."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for number in range(10):
            key = f"{number:03d}" if number != 4 else f"{'long/' * 30}é{number}"
            if number == 7:
                folder = tarfile.TarInfo("folder")
                folder.type = tarfile.DIRTYPE
                out.addfile(folder)
            for extension, content in (("jpg", bytes([number]) * 700), ("txt", b"words"), ("json", b"{}")):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    return path


def numbers(items: list[Sample | Damaged]) -> list[int | str]:
    return [item.reason if isinstance(item, Damaged) else item["jpg"][0] for item in items]


def scanned(path: Path) -> tuple[Shard, Offsets]:
    shard, offsets = scan(str(path))
    assert offsets is not None
    return shard, offsets


def test_any_range_is_read_from_its_offset_as_webdataset_reads_it(tar: Path) -> None:
    shard, offsets = scanned(tar)
    theirs = list(wds.WebDataset(str(tar), shardshuffle=False))
    for first in range(11):
        for last in range(first, 11):
            for known in (offsets, None):
                got = list(read(shard, first, last, FILES, known))
                assert (
                    [{**sample} for sample in got]
                    == [  # type: ignore[arg-type]
                        {k: v for k, v in sample.items() if k != "__local_path__"} for sample in theirs[first:last]
                    ]
                )


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_one_spoiled_header_costs_one_sample(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("spoiled")
    with wds.TarWriter(str(folder / "a.tar")) as out:
        for number in range(6):
            out.write({"__key__": f"{number}", "jpg": bytes([number]) * 600, "txt": b"words"})
    shard, offsets = scanned(folder / "a.tar")
    victim = data.draw(st.integers(0, 5))
    with tarfile.open(folder / "a.tar") as tar:
        member = tar.getmember(f"{victim}.{data.draw(st.sampled_from(['jpg', 'txt']))}")
    header = member.offset_data - 512
    content = bytearray((folder / "a.tar").read_bytes())
    content[header + data.draw(st.integers(0, 107))] ^= 0x55
    (folder / "a.tar").write_bytes(content)
    got = numbers(list(read(shard, 0, 6, FILES, offsets)))
    assert got == [number if number != victim else BROKEN.reason for number in range(6)]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.55, 0.99])
def test_a_tar_cut_after_it_was_indexed(tar: Path, kept: float) -> None:
    shard, offsets = scanned(tar)
    size = int(offsets[-1] * kept)
    tar.write_bytes(tar.read_bytes()[:size])
    whole = int((offsets[1:] <= size).sum())
    for parts in ([(0, 10)], [(0, 3), (3, 8), (8, 10)]):  # however it is divided, the same samples are lost
        got = [item for first, last in parts for item in read(shard, first, last, FILES, offsets)]
        assert numbers(got) == [*range(whole), *[CUT.reason] * (10 - whole)]


def test_without_offsets_what_follows_the_damage_is_lost(tar: Path) -> None:
    shard, offsets = scanned(tar)
    tar.write_bytes(tar.read_bytes()[: int(offsets[6]) + 600])  # in the first file of sample 6
    for parts in ([(0, 10)], [(0, 6), (6, 7), (7, 10)]):
        got = [item for first, last in parts for item in read(shard, first, last, FILES, None)]
        assert numbers(got) == [*range(6), *[CUT.reason] * 4]


def test_a_cut_compressed_tar(tar: Path, tmp_path: Path) -> None:
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    shard, offsets = scan(str(packed))
    assert offsets is None and shard.samples == 10
    assert numbers(list(read(shard, 2, 10, FILES, None))) == list(range(2, 10))
    packed.write_bytes(packed.read_bytes()[:-40])
    got = list(read(shard, 0, 10, FILES, None))
    assert len(got) == 10 and got[-1] == BROKEN


def test_a_compressed_shard_is_kept_or_refused(tar: Path) -> None:
    packed = tar.with_suffix(".tar.gz")
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    index = open_index(str(packed))
    assert numbers(list(Shelf(index, FILES, 10**6).samples(0, 4, 7))) == [4, 5, 6]
    with pytest.raises(UserError, match=r"a\.tar\.gz is compressed.*raise data\.memory"):
        list(Shelf(index, FILES, 0).samples(0, 4, 7))


def test_a_shard_without_offsets_is_scanned_once(tar: Path) -> None:
    index = Index((Shard(str(tar), 10, tar.stat().st_size),))
    assert numbers(list(Shelf(index, FILES, 0).samples(0, 4, 7))) == [4, 5, 6]
    np.testing.assert_array_equal(index.found[str(tar)], scanned(tar)[1])  # type: ignore[arg-type]
    tar.write_bytes(tar.read_bytes()[:9000])
    cut = Index((Shard(str(tar), 10, 40960),))
    assert Damaged in {type(item) for item in Shelf(cut, FILES, 0).samples(0, 4, 10)}


def test_two_files_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as out:
        for name in ("0.txt", "1.txt", "1.TXT", "2.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1
            out.addfile(member, io.BytesIO(b"x"))
    shard, offsets = scanned(path)
    got = list(read(shard, 0, 3, FILES, offsets))
    assert [isinstance(item, Damaged) for item in got] == [False, True, False]
    assert got[1] == Damaged("two files of one name in a sample")


def test_reading_a_whole_set_names_the_damage(tar: Path) -> None:
    index = open_index(str(tar))
    assert len(list(read_whole(index))) == 10
    tar.write_bytes(tar.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"Sample \d of the shard .*a\.tar is cut off in the tar: restore it"):
        list(read_whole(index))


def test_offsets_lie_beside_the_shard_and_are_checked(tar: Path) -> None:
    shard, offsets = scanned(tar)
    index = Index((replace(shard, offsets=True),))
    beside = tar.with_name("a.tar.idx")
    offsets.astype("<i8").tofile(beside)
    np.testing.assert_array_equal(index.offsets(0, FILES), offsets)  # type: ignore[arg-type]
    assert numbers(list(Shelf(index, FILES, 0).samples(0, 5, 9))) == [5, 6, 7, 8]
    for spoiled in (offsets[:-1], offsets[::-1], offsets + shard.bytes, offsets - 1):
        spoiled.astype("<i8").tofile(beside)
        with pytest.raises(UserError, match=r"a\.tar\.idx does not fit its shard of 10 samples"):
            index.offsets(0, FILES)
    beside.write_bytes(b"odd")
    with pytest.raises(UserError, match="does not fit"):
        index.offsets(0, FILES)
    beside.unlink()
    with pytest.raises(UserError, match=r"a\.tar\.idx"):
        list(Shelf(index, FILES, 0).samples(0, 5, 9))
