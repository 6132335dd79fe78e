"""lancedb's StreamingDataset, whose documentation promises one order of global batches on any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.streaming import StreamingDataLoader, StreamingDataset
from order_shared import decode, given, samples, tell


def table(folder: Path) -> Any:
    db = lancedb.connect(folder / "lancedb")
    if (folder / "lancedb" / "pairs.lance").exists():
        return db.open_table("pairs")
    keys, pictures = zip(*samples(folder), strict=True)
    return db.create_table("pairs", pa.table({"key": list(keys), "jpg": pa.array(list(pictures), pa.binary())}))


def transform(batch: pa.RecordBatch) -> list[str]:
    for picture in batch.column("jpg").to_pylist():
        decode(picture)
    return batch.column("key").to_pylist()


def opened(folder: Path, case: dict[str, Any], rank: int) -> Any:
    dataset = StreamingDataset(
        table(folder),
        num_splits=case["streams"],
        shuffle_seed=0,
        rank=rank,
        world_size=case["ranks"],
        transform=transform,
        on_transform_error=case["damage"],
    )
    return dataset, StreamingDataLoader(
        dataset,
        batch_size=case["batch"] // case["ranks"],
        num_workers=case["workers"],
        collate_fn=list,
        multiprocessing_context="spawn" if case["workers"] else None,  # its workers crash if they are forked
    )


def main(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    ranks, skipped, states = [], 0, []
    for rank in range(case["ranks"]):
        dataset, loader = opened(folder, case, rank)
        if "state" in case:
            dataset.load_state_dict(case["state"])
        steps = []
        for batch in loader:
            steps.append(batch)
            if len(steps) == case.get("stop"):
                states.append(dataset.state_dict())
                break
        ranks.append(steps)
        skipped += dataset.rows_skipped
    state = StreamingDataset.merge_state_dicts(states) if states else None
    return {"ranks": ranks, "reported": skipped, "state": state}


if __name__ == "__main__":
    tell(main, *given())
