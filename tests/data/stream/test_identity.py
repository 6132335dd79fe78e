"""The digest of the order, and what tells a shard from another in its place, over real tars."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_server import serving
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.stream.identity import describe, difference, order_digest
from diptych.data.stream.index import Index, Shard, open_index, open_sources
from diptych.data.stream.order import Order
from samples import write_shards

NAMES = ["train-000000.tar", "train-000001.tar", "train-000002.tar", "train-000003.tar"]


def of(index: Index, **changes: int) -> dict[str, Any]:
    given = {"seed": 0, "epoch": 0, "batch_size": 8, "streams": 2, "block": 16} | changes
    return describe(Order(index, **given))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 16 samples, so that all have one length: no size tells them apart."""
    folder = write_shards(tmp_path_factory.mktemp("packed") / "shards", [16] * 4).parent
    shutil.copy(folder / NAMES[0], folder / "0.tar")
    return folder


def rewritten(folder: Path, change: Any) -> Index:
    entries = json.loads((folder / "index.json").read_text())["shards"]
    (folder / "other.json").write_text(json.dumps({"version": 1, "shards": change(entries)}))
    return open_index(str(folder / "other.json"))


def test_moved_data_is_the_same(packed: Path, tmp_path: Path) -> None:
    """Copied, linked, renamed, over HTTP, and as a pattern of tars without the index."""
    before = of(open_index(str(packed / "index.json")))
    moved = shutil.copytree(packed, tmp_path / "moved")
    (tmp_path / "linked").symlink_to(packed)
    for place in (moved / "index.json", tmp_path / "linked/index.json", packed / "train-{000000..000003}.tar"):
        assert difference(before, of(open_index(str(place)))) is None
    assert difference(before, of(open_sources({"one": {"shards": str(moved / "index.json")}}))) is None
    with serving() as server:
        server.files["/x/index.json"] = (packed / "index.json").read_bytes()
        assert difference(before, of(open_index(server.url("/x/index.json")))) is None
    for number, name in enumerate(NAMES):
        (moved / name).rename(moved / f"{number}.tar")
    assert difference(before, of(open_index(str(moved / "{0..3}.tar")))) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda shards: [shards[i] for i in (0, 2, 1, 3)], "shard 2 of 4, train-000001.tar, is now train-000002.tar"),
        (lambda shards: shards[:3], "4 shards became 3, train-000003.tar is gone"),
        (lambda shards: [*shards, {**shards[0], "path": "0.tar"}], "4 shards became 5, 0.tar is new"),
        (lambda shards: shards[1:], "shard 1 of 4, train-000000.tar, is now train-000001.tar"),
    ],
)
def test_another_index_is_named(packed: Path, change: Any, said: str) -> None:
    before = of(open_index(str(packed / "index.json")))
    assert difference(before, of(rewritten(packed, change))) == said


def test_a_shard_that_was_replaced_is_named(packed: Path, tmp_path: Path) -> None:
    """By one of the same name, length and number of samples: its bytes tell it."""
    moved = shutil.copytree(packed, tmp_path / "moved")
    before = of(open_index(str(moved / "index.json")))
    shutil.copy(moved / NAMES[0], moved / NAMES[2])
    assert (moved / NAMES[2]).stat().st_size == (packed / NAMES[2]).stat().st_size
    now = of(open_index(str(moved / "index.json")))
    assert difference(before, now) == "shard 3 of 4, train-000002.tar, is another file of the same length"


def test_hashes_of_an_index_tell_what_lies_on_a_server() -> None:
    shards = tuple(Shard(f"http://h/{n}.tar?key=secret/{n}", 16, 9, sha256=f"{n}" * 64) for n in range(3))
    before = of(Index(shards))
    assert "secret" not in str(before) and difference(before, of(Index(shards))) is None
    other = Index((shards[0], replace(shards[1], sha256="a" * 64), shards[2]))
    assert difference(before, of(other)) == "shard 2 of 3, 1.tar, is another file of the same length"
    without = Index(tuple(replace(shard, sha256=None) for shard in shards))
    assert difference(before, of(without)) is None
    assert difference(of(without), of(Index(without.shards[::-1]))) == "shard 1 of 3, 0.tar, is now 2.tar"


def test_the_beginning_tells_what_lies_on_a_server_without_hashes(packed: Path, tmp_path: Path) -> None:
    """Files of the same names, lengths and numbers of samples: also of data that moved there from a disk."""

    def asked(place: str) -> dict[str, Any]:
        order = Order(open_index(place), seed=0, epoch=0, batch_size=8, streams=2, block=16)
        return describe(order, Files(retries=0, cache=str(tmp_path / "cache")))

    entries = json.loads((packed / "index.json").read_text())["shards"]
    bare = [{key: entry[key] for key in ("path", "samples", "bytes")} for entry in entries]
    with serving() as server:
        server.files = {f"/x/{name}": (packed / name).read_bytes() for name in NAMES}
        server.files["/x/index.json"] = json.dumps({"shards": bare}).encode()
        before, on_disk = asked(server.url("/x/index.json")), asked(str(packed / "index.json"))
        assert difference(before, asked(server.url("/x/index.json"))) is None is difference(on_disk, before)
        server.files[f"/x/{NAMES[2]}"] = server.files[f"/x/{NAMES[0]}"]
        now = asked(server.url("/x/index.json"))
        for then in (before, on_disk):
            assert difference(then, now) == "shard 3 of 4, train-000002.tar, is another file of the same length"
        del before["heads"]  # as a checkpoint of an earlier version
        assert difference(before, now) is None
        server.files["/x/index.json"] = json.dumps(
            {"shards": [{**each, "sha256": "a" * 64} for each in bare]}
        ).encode()
        server.asked.clear()
        hashed = asked(server.url("/x/index.json"))
        assert {path for path, _ in server.asked} == {"/x/index.json"} and set(hashed["heads"]) == {""}
        server.files = {"/x/index.json": json.dumps({"shards": bare}).encode()}
        assert set(asked(server.url("/x/index.json"))["heads"]) == {""}  # it is said where they are read
        server.files["/x/index.json"] = json.dumps(
            {"shards": [{**bare[0], "path": f"{number}.tar"} for number in range(100)]}
        ).encode()
        server.files |= {f"/x/{number}.tar": (packed / NAMES[0]).read_bytes() for number in range(100)}
        server.asked.clear()
        assert sum(map(bool, asked(server.url("/x/index.json"))["heads"])) == 16
        assert {wanted for path, wanted in server.asked if path.endswith(".tar")} == {"bytes=0-16383"}
    assert not (tmp_path / "cache").exists()


def test_weights_and_lengths_are_named() -> None:
    shards = (Shard("a/0.tar", 16, 9), Shard("a/1.tar", 16, 9, weight=2.0))
    before = of(Index(shards))
    heavier = Index((shards[0], replace(shards[1], weight=3.0)))
    assert difference(before, of(heavier)) == "shard 2 of 2, 1.tar, has weight 3 where it had 2"
    for changed, said in (
        ({"samples": 24}, "24 samples where it had 16"),
        ({"bytes": 10}, "10 bytes where it had 9"),
    ):
        now = of(Index((replace(shards[0], **changed), shards[1])))  # type: ignore[arg-type]
        assert difference(before, now) == f"shard 1 of 2, 0.tar, has {said}"
    assert (
        difference(before, of(Index(shards), seed=1))
        == "seed, batch size, streams, blocks or the pairs held out are different"
    )


counts = st.lists(st.integers(0, 40), min_size=1, max_size=6)
laws = st.tuples(
    counts, st.lists(st.sampled_from([0.5, 1.0, 2.25]), min_size=6, max_size=6), st.integers(0, 2),
    st.sampled_from([(4, 2), (8, 2), (8, 4)]), st.sampled_from([8, 16]),
)  # fmt: skip


def made(law: Any) -> Order | None:
    samples, weights, seed, (batch, streams), block = law
    shards = tuple(Shard(f"{n}.tar", s, s, weight=w) for n, (s, w) in enumerate(zip(samples, weights, strict=False)))
    try:
        return Order(Index(shards), seed=seed, epoch=0, batch_size=batch, streams=streams, block=block)
    except UserError:
        return None


def batches(order: Order) -> list[Any]:
    return [epoch.batch(step) for epoch in (order.at(0), order.at(1)) for step in range(order.steps)]


@settings(max_examples=150, deadline=None)
@given(laws, laws, st.randoms(use_true_random=False))
def test_another_order_has_another_digest(left: Any, right: Any, draw: random.Random) -> None:
    """`right` takes most of its law from `left`, so that equal and nearly equal ones occur."""
    right = tuple(a if draw.random() < 0.7 else b for a, b in zip(left, right, strict=True))
    one, other = made(left), made(right)
    if one is None or other is None:
        return
    if batches(one) != batches(other):
        assert order_digest(one) != order_digest(other)
    if left == right:
        assert order_digest(one) == order_digest(other)
