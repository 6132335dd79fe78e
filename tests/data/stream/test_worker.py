"""The stream: the same batches for any ranks × workers and from any step; and shared memory that is too small, or
through which nothing more is handed over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset as wds
from found import found
from http_server import drop, serve, serving, status
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from streams import FIRST, joined, letters, same, steps

from diptych.base.batch import Batch
from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.data.io.files import Files
from diptych.data.pixels.image import TrainImage
from diptych.data.stream.index import Index, open_index, open_sources, scan
from diptych.data.stream.order import Order
from diptych.data.stream.pairs import Pair, Pairs
from diptych.data.stream.shards import Sample, read_whole
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream
from samples import caption, write_shards


@pytest.fixture
def reference(shards: Path) -> list[Batch]:
    return list(steps(shards))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (2, 1), (4, 0), (1, 4)])
def test_any_layout_gives_the_same_batches(shards: Path, reference: list[Batch], ranks: int, workers: int) -> None:
    got = joined([list(steps(shards, Place(rank, ranks), workers)) for rank in range(ranks)])
    assert same(got, reference)


def test_the_stream_is_the_order(shards: Path, reference: list[Batch]) -> None:
    index = open_index(str(shards))
    samples = [list(read_whole(Index((shard,)))) for shard in index.shards]
    for step in range(10):
        epoch, within = divmod(step, 5)
        order = Order(index, seed=5, epoch=epoch, batch_size=16, streams=4)
        assert order.steps == 5
        keys = []
        for shard, number in order.batch(within):
            sample = samples[shard][number]
            keys.append(f"{index.names[shard]}/{sample['__key__']}")
        assert reference[step].keys == keys


def test_images_and_captions_belong_together(reference: list[Batch]) -> None:
    for batch in reference:
        for key, tokens in zip(batch.keys, batch.tokens, strict=True):
            expected = caption(int(key.rsplit("/", 1)[1]))
            assert torch.equal(tokens, letters([expected])[0])


@pytest.mark.parametrize(("start", "memory"), list(product([1, 4, 5, 7, 11], [0, 10**9])))
def test_going_on_from_a_step_is_exact(shards: Path, reference: list[Batch], start: int, memory: int) -> None:
    assert same(list(steps(shards, start=start, memory=memory)), reference[start:])


def test_crops_change_from_epoch_to_epoch(reference: list[Batch]) -> None:
    first = dict(zip(reference[0].keys, reference[0].seeds.tolist(), strict=True))
    later = {k: s for b in reference[5:10] for k, s in zip(b.keys, b.seeds.tolist(), strict=True)}
    assert len(first) == 16 and all(first[key] != later[key] for key in first)


def words(sample: Sample, seed: int) -> Pair:
    """A pair small enough for many streams: the caption and the seed."""
    return Pair(torch.tensor([seed >> 40]), letters([sample["txt"].decode()])[0])


QUICK = [phase for phase in Phase if phase is not Phase.shrink]  # an example takes too long to shrink it


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Shards of any sizes, and a layout whose ranks × workers divide K; often there are fewer shards than readers."""
    ranks, workers = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([1, 2, 3]))
    streams = ranks * workers * draw(st.integers(1, 3))
    batch = streams * draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(1, 60), min_size=1, max_size=7))
    counts[-1] += 2 * batch
    return {"ranks": ranks, "workers": workers, "streams": streams, "batch_size": batch, "counts": counts}


@settings(max_examples=40, deadline=None, phases=QUICK)
@given(
    world=worlds(),
    seed=st.integers(0, 2**31),
    block=st.integers(1, 40),
    start=st.integers(0, 9),
    indexed=st.booleans(),
)
def test_any_world_reads_the_order_each_sample_once_in_equal_steps(
    tmp_path_factory: pytest.TempPathFactory,
    world: dict[str, Any],
    seed: int,
    block: int,
    start: int,
    indexed: bool,
) -> None:
    path = write_texts(tmp_path_factory.mktemp("world"), world["counts"])
    pattern = f"{path.parent}/{{000000..{len(world['counts']) - 1:06d}}}.tar"
    index = open_index(str(path) if indexed else pattern)
    layout = {"seed": seed, "batch_size": world["batch_size"], "streams": world["streams"], "block": block}
    first = Order(index, epoch=0, **layout)
    stop = first.steps + 3  # into the next epoch
    start = min(start, stop - 1)

    def read(rank: int, ranks: int, workers: int, start: int) -> list[list[str]]:
        stream = Stream(
            Order(index, epoch=0, **layout), words, start=start, stop=stop, place=Place(rank, ranks), memory=0
        )
        parts = [stream.parts(worker, workers) for worker in range(workers)]
        return [[key for part in step for key in part.keys] for step in zip(*parts, strict=True)]

    alone = read(0, 1, 1, 0)
    ranks = [read(rank, world["ranks"], world["workers"], start) for rank in range(world["ranks"])]
    assert {len(steps) for steps in ranks} == {stop - start}
    assert [[key for keys in shares for key in keys] for shares in zip(*ranks, strict=True)] == alone[start:]
    epoch = [key for step in alone[: first.steps] for key in step]
    assert len(set(epoch)) == len(epoch) == index.samples - first.remainder
    orders = [Order(index, epoch=epoch, **layout) for epoch in range(1 + stop // first.steps)]
    for step, keys in enumerate(alone):
        places = orders[step // first.steps].batch(step % first.steps)
        assert keys == [f"{index.names[shard]}/{number:06d}" for shard, number in places]


def write_texts(folder: Path, counts: list[int]) -> Path:
    """Shards of captions alone, whose keys are the samples' numbers in their shard. Returns the index's path."""
    entries = []
    for shard, count in enumerate(counts):
        path = folder / f"{shard:06d}.tar"
        with wds.TarWriter(str(path)) as writer:
            for number in range(count):
                writer.write({"__key__": f"{number:06d}", "txt": b"words"})
        entries.append({"path": path.name, "samples": count, "bytes": path.stat().st_size})
    (folder / "index.json").write_text(json.dumps({"version": 1, "shards": entries}))
    return folder / "index.json"


def test_two_sources_are_mixed_by_weight_and_told_apart(tmp_path: Path) -> None:
    for name, count in (("cc", 30), ("own", 10)):
        write_shards(tmp_path / name, [count])
    index = open_sources({n: {"shards": str(tmp_path / n / "index.json"), "weight": w} for n, w in WEIGHTS.items()})
    stream = Stream(
        Order(index, seed=1, epoch=0, batch_size=12, streams=4), words, start=0, stop=5, place=FIRST, memory=0
    )
    assert (stream.order.steps, stream.order.samples) == (5, 60)  # 30 · 1 + 10 · 3
    parts = list(stream.parts(0, 1))
    keys = Counter(key for part in parts for key in part.keys)
    assert {keys[f"own/train-000000.tar/{n:06d}"] for n in range(10)} == {3}
    assert {keys[f"cc/train-000000.tar/{n:06d}"] for n in range(30)} == {1}
    seeds = [seed for part in parts for seed in part.seeds]
    assert len(set(seeds)) == 60  # copies of a sample are cropped differently


WEIGHTS = {"cc": 1, "own": 3.0}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "names no source"),
        ({"cc": {"weight": 1}}, r"data\.sources\.cc\.shards is missing"),
        ({"cc": {"shards": "x.tar", "weight": 0}}, r"data\.sources\.cc\.weight=0 must be a number above 0"),
        ({"cc": {"shards": "x.tar", "weight": True}}, r"data\.sources\.cc\.weight=True must be"),
        ({"cc": {"shards": "x.tar", "wieght": 2}}, r"data\.sources\.cc\.wieght is unknown"),
        ({"cc": {"shards": "gone.json"}}, r"data\.sources\.cc\.shards=gone\.json does not exist"),
    ],
)
def test_wrong_sources_are_refused_by_name(sources: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_sources(sources)


def test_shards_over_http_give_the_same_batches_whatever_the_server_does(shards: Path) -> None:
    """Refusals, dropped connections and a reset in the middle of shards: the same batches, each try counted."""
    folder = shards.parent
    reference = list(steps(shards, stop=7))
    with serving() as server:
        for tar in found(folder, "*.tar"):
            _, offsets = scan(str(tar))
            assert offsets is not None
            server.files[f"/set/{tar.name}"] = tar.read_bytes()
            server.files[f"/set/{tar.name}.idx"] = offsets.astype("<i8").tobytes()
        entries = json.loads(shards.read_text())["shards"]
        index = {"version": 1, "shards": [entry | {"offsets": True} for entry in entries]}
        server.files["/set/index.json"] = json.dumps(index).encode()
        files = Files(backoff=0.001, retries=3)
        opened = open_index(server.url("/set/index.json"), files)
        stream = Stream(
            Order(opened, seed=5, epoch=0, batch_size=16, streams=4),
            Pairs(TrainImage(24), letters),
            start=0,
            stop=7,
            place=FIRST,
            memory=0,
            files=files,
        )
        server.faults.extend([status(503), serve, drop(700), status(503), status(503), serve, drop(40, reset=True)])
        run = Steps(stream, 0, 0.0)
        assert same(list(run), reference)
        assert sum(run.retried.values()) == 5 and run.skipped == {}
        assert all(address.startswith("127.0.0.1") for address in run.retried)

        server.faults.extend([status(503)] * 100)
        with pytest.raises(
            UserError, match=r"http://127\.0\.0\.1:\d+/set/train-00000\d\.tar.*503.*data\.files\.retries"
        ):
            list(Steps(stream, 0, 0.0))
        server.faults.clear()
        server.files["/set/train-000000.tar"] += bytes(10240)
        with pytest.raises(UserError, match=r"train-000000\.tar"):
            list(Steps(stream, 0, 0.0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_command_that_is_allowed_is_read_by_workers_too(shards: Path, workers: int) -> None:
    files = Files()
    files.allow_pipe = True  # as the data module sets it
    tars = [str(shards.parent / f"train-{number:06d}.tar") for number in range(4)]
    index = open_index([f"pipe:cat {tars[0]}", *tars[1:]], files)
    stream = Stream(
        Order(index, seed=5, epoch=0, batch_size=16, streams=4),
        Pairs(TrainImage(24), letters),
        start=0,
        stop=5,
        place=FIRST,
        memory=0,
        files=files,
    )
    batches = list(Steps(stream, workers, 0.0))
    for batch, expected in zip(batches, steps(shards, stop=5), strict=True):
        assert torch.equal(batch.images, expected.images) and torch.equal(batch.tokens, expected.tokens)


class Late(Steps):
    """Its worker is stuck until the watchdog has spoken: it waits for a writer to a pipe, which speaking opens."""

    pipe: Path

    def _say(self, worker: int, waited: float) -> None:
        if self.stream.whereabouts[2 * worker] >= 0:  # else it is starting; the watchdog speaks again
            super()._say(worker, waited)
            self.pipe.write_text("go on")


class Stuck:
    def __init__(self, pipe: Path) -> None:
        self.pipe = pipe

    def __call__(self, sample: Sample, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.pipe.exists():
            self.pipe.read_text()
            self.pipe.unlink()
        return words(sample, seed)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_watchdog_says_who_waits_for_what(
    shards: Path, tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    stream = Stream(
        Order(open_index(str(shards)), seed=5, epoch=0, batch_size=16, streams=4),
        Stuck(tmp_path / "pipe"),
        start=0,
        stop=2,
        place=Place(1, 2),
        memory=0,
    )
    run = Late(stream, workers, 0.0, stall=0.5)
    run.pipe = tmp_path / "pipe"
    assert len(list(run)) == 2
    (shard,) = run.stalled
    assert re.search(
        rf"rank 1 has waited [0-9.]+ s for {'worker 0' if workers else 'its own reading'}, in shard {shard}, from",
        capfd.readouterr().err,
    )


def test_webdataset_reads_the_same_samples(shards: Path) -> None:
    index = open_index(str(shards))
    ours = list(read_whole(index))
    theirs = list(wds.WebDataset([shard.path for shard in index.shards], shardshuffle=False))
    assert [(s["__key__"], s["png"], s["txt"]) for s in ours] == [(s["__key__"], s["png"], s["txt"]) for s in theirs]


# Batches of 64 × 3 × 24 × 24 bytes and their 64 × 24 tokens of 8: two of 122,880 wait and a third is handed over.
READS = """
import sys
from pathlib import Path
from streams import steps
if __name__ == "__main__":
    for batch in steps(Path(sys.argv[1]), workers=1, batch_size=64):
        print(batch.step, flush=True)
"""
NEEDED = (
    "UserError: /dev/shm has no room for the workers' batches: 368,640 bytes are needed, 3 parts of 122,880 a worker"
)


def in_small_memory(tmp_path: Path, shards: Path, size: int, first: str = "true") -> subprocess.CompletedProcess[str]:
    """The script with a /dev/shm of `size` bytes, in a mount namespace of its own."""
    (script := tmp_path / "reads.py").write_text(READS)
    inside = (
        f"mount -t tmpfs -o size={size} none /dev/shm && {first} && exec '{sys.executable}' '{script}' '{shards}'"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests/support")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["unshare", "-rm", "bash", "-c", inside], capture_output=True, text=True, env=environment, timeout=120
    )
    if re.search("unshare:|mount:", ended.stderr):
        pytest.skip("mount namespaces can't be made here")
    return ended


def test_a_small_shared_memory_is_named_with_the_bytes_needed(shards: Path, tmp_path: Path) -> None:
    ended = in_small_memory(tmp_path, shards, 200 << 10)
    assert NEEDED in ended.stderr and "of its 204,800 bytes are free" in ended.stderr and ended.stdout == ""


@pytest.mark.slow
def test_a_shared_memory_that_others_fill_is_named_too(shards: Path, tmp_path: Path) -> None:
    ended = in_small_memory(tmp_path, shards, 4 << 20, "head -c 4000000 /dev/zero > /dev/shm/others")
    assert NEEDED in ended.stderr, ended.stderr
    assert in_small_memory(tmp_path, shards, 4 << 20).stdout.count("\n") == 12


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGBUS], ids=["hangs", "dies"])
def test_a_training_ends_when_its_worker_hands_over_no_more(
    shards: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """One that hangs does not keep SIGTERM from ending the training; one that dies ends it with a sentence."""
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "src/train.py"), "model=vit_tiny", "model.text.width=16", "logger=none",
            "trainer=cpu", "trainer.precision=32-true", "data=webdataset", f"data.shards={shards}", "data.workers=1",
            "data.batch_size=16", "data.evaluate=null", "trainer.max_steps=100000", "trainer.checkpoint_every=2",
            "callbacks.progress.seconds=0", "run_dir=run",
        ],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert any(re.match(r"step ([4-9]|\d\d)", line) for line in process.stdout)  # the first checkpoint is on the disk
    (server,) = (pid for pid in children(process.pid) if b"forkserver" in command(pid))
    (worker,) = (pid for pid in children(server) if b"forkserver" in command(pid))
    os.kill(worker, sent)
    time.sleep(2)  # what it made before is trained on
    begin = time.monotonic()
    if sent == signal.SIGSTOP:
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    if sent == signal.SIGSTOP:
        assert process.returncode == 75 and "SIGTERM while waiting for data: all steps after the last" in err, err
    else:
        assert process.returncode == 2 and "A worker of rank 0 was killed" in err, err
    assert time.monotonic() - begin < 30 and "Traceback" not in err
    assert not Path(f"/proc/{worker}").exists() or b"State:\tZ" in Path(f"/proc/{worker}/status").read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").open()]
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file() and steps == sorted(set(steps)) != []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
