"""MosaicML Streaming: one process per rank, over its own MDS copy. The number of canonical nodes is fixed, because
elasticity needs it.

It can't skip a damaged sample: an error in `__getitem__` ends the run.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from order_shared import decode, given, samples, tell

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/peers"))
import openings  # noqa: F401  before whatever imports torchvision

# isort: split
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset


class Pairs(StreamingDataset):
    def __getitem__(self, at: int) -> str:
        sample = super().__getitem__(at)
        decode(sample["jpg"])
        return sample["key"]


def named(keys: list[str]) -> dict[str, list[str]]:
    """A batch with a size that its loader can read, because its state needs it."""
    return {"key": keys}


def copied(folder: Path) -> Path:
    own = folder / "mds"
    if not own.exists():
        with MDSWriter(out=str(own), columns={"key": "str", "jpg": "bytes"}, size_limit=2**15) as out:
            for key, picture in samples(folder):
                out.write({"key": key, "jpg": picture})
    return own


def one(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Runs in the process of one rank."""
    dataset = Pairs(
        local=str(copied(folder)),
        batch_size=case["batch"] // case["ranks"],
        shuffle=True,
        shuffle_seed=0,
        num_canonical_nodes=case["streams"],
    )
    loader = StreamingDataLoader(
        dataset, batch_size=case["batch"] // case["ranks"], num_workers=case["workers"], collate_fn=named
    )
    if "state" in case:
        loader.load_state_dict(case["state"])
    steps: list[list[str]] = []
    for batch in loader:
        steps.append(batch["key"])
        if len(steps) == case.get("stop"):
            break
    return {"steps": steps, "state": loader.state_dict() if "stop" in case else None}


def main(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    copied(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(case["ranks"]):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case["ranks"]),
            "LOCAL_WORLD_SIZE": str(case["ranks"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        command = [sys.executable, __file__, str(folder), json.dumps({**case, "rank": rank})]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        )
    told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    for each in told:
        if "error" in each:
            raise RuntimeError(each["error"])
    return {
        "ranks": [each["found"]["steps"] for each in told],
        "reported": 0,
        "state": told[0]["found"]["state"],
    }


if __name__ == "__main__":
    folder, case = given()
    tell(one if "rank" in case else main, folder, case)
