"""A tar that is cut, or damaged, at any block: one sample is lost to it, by that reason, and none to another."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from diptych.data.io.files import Files
from diptych.data.stream.index import open_index
from diptych.data.stream.pairs import BadSample, captions_of, images_of
from diptych.data.stream.shards import BROKEN, CUT, Damaged, read
from diptych.packing.checking import check_shard
from samples import picture

SAMPLES = 3


def written(order: tuple[str, str]) -> tuple[bytes, list[int]]:
    """A tar -> its bytes without the end marker, and where its headers begin"""
    buffer, headers = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for n in range(SAMPLES):
            files = {"png": picture(n), "txt": b"a caption"}
            for extension in order:
                member = tarfile.TarInfo(f"{n}.{extension}")
                member.size = len(files[extension])
                headers.append(tar.offset)
                tar.addfile(member, io.BytesIO(files[extension]))
        return buffer.getvalue()[: tar.offset], headers


def outcome(path: Path) -> Counter[str]:
    """What each sample of a shard gives: "pair", or the reason why not."""
    files, found = Files(), Counter[str]()
    index = open_index(str(path), files, max_bad=1)
    (shard,) = index.shards
    for sample in read(shard, 0, shard.samples, files, index.offsets(0, files)):
        try:
            if isinstance(sample, Damaged):
                raise BadSample(sample.reason)
            captions_of(sample), images_of(sample)
            found["pair"] += 1
        except BadSample as error:
            found[str(error)] += 1
    return found


@pytest.mark.parametrize("order", [("png", "txt"), ("txt", "png")])
def test_what_lies_behind_a_cut_is_cut(tmp_path: Path, order: tuple[str, str]) -> None:
    whole, headers = written(order)
    path = tmp_path / "a.tar"
    for cut in range(512, len(whole) + 1, 256):
        path.write_bytes(whole[:cut])
        before = sum(begin <= cut for begin in headers[2::2]) + (cut == len(whole))
        assert outcome(path) == Counter({CUT.reason: 1, **({"pair": before} if before else {})}), cut
        assert {finding.kind for finding in check_shard(str(path), None).findings} == {"damaged tar"}, cut


@pytest.mark.parametrize("order", [("png", "txt"), ("txt", "png")])
@pytest.mark.parametrize("spoilt", range(1, 2 * SAMPLES, 2))
def test_what_lies_in_damage_is_damaged(tmp_path: Path, order: tuple[str, str], spoilt: int) -> None:
    whole, headers = written(order)
    at = headers[spoilt]
    path = tmp_path / "a.tar"
    path.write_bytes(whole[:at] + b"\xff" * 512 + whole[at + 512 :] + bytes(1024))
    assert outcome(path) == {"pair": SAMPLES - 1, BROKEN.reason: 1}
    assert {finding.kind for finding in check_shard(str(path), None).findings} == {"damaged tar"}
