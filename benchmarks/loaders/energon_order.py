"""Megatron-Energon over the same tars with its own index. Its training stream is endless: we count one epoch."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / "tests/support"), str(Path(__file__).parents[2] / "tests/peers")]

# isort: split
from energon_loader import prepare  # noqa: E402
from megatron.energon import (  # noqa: E402
    DefaultTaskEncoder,
    WorkerConfig,
    get_savable_loader,
    get_train_dataset,
    stateless,
)
from order_shared import decode, given, tell  # noqa: E402


class Keys(DefaultTaskEncoder):
    decoder = None

    @stateless
    def encode_sample(self, sample: Any) -> str:
        decode(sample.image)
        return str(sample.__key__).rsplit("/", 1)[-1]

    @stateless
    def batch(self, samples: list[str]) -> list[str]:
        return samples


def main(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    logged = io.StringIO()
    logging.basicConfig(stream=logged, level=logging.WARNING)
    ranks, states = [], []
    with contextlib.redirect_stderr(logged):
        for rank in range(case["ranks"]):
            config = WorkerConfig(rank=rank, world_size=case["ranks"], num_workers=case["workers"])
            dataset = get_train_dataset(
                prepare(folder),
                worker_config=config,
                batch_size=case["batch"] // case["ranks"],
                shuffle_buffer_size=20,
                max_samples_per_sequence=10,
                task_encoder=Keys(),
            )
            loader = get_savable_loader(dataset)
            if "state" in case:
                loader.restore_state_rank(_state(case["state"]))
            steps = list(islice(iter(loader), case.get("stop") or case["epoch"]))
            ranks.append([list(batch) for batch in steps])
            if "stop" in case:
                states.append(loader.save_state_rank())
    reported = sum(key in logged.getvalue() for key in case.get("damaged", ()))
    return {"ranks": ranks, "reported": reported, "state": _text(states[0]) if states else None}


def _text(state: Any) -> str:
    import base64
    import pickle

    return base64.b64encode(pickle.dumps(state)).decode()


def _state(text: str) -> Any:
    import base64
    import pickle

    return pickle.loads(base64.b64decode(text))  # written by this script


if __name__ == "__main__":
    tell(main, *given())
