"""webshart's TarDataLoader: one reader of indexed tars, without ranks, workers or a shuffle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import webshart
from order_shared import decode, given, tell


def indexed(folder: Path) -> Any:
    """Makes its own JSON index beside each tar, over hard links."""
    own = folder / "webshart"
    if not own.exists():
        own.mkdir()
        for tar in folder.glob("*.tar"):
            (own / tar.name).hardlink_to(tar)
        webshart.MetadataExtractor().extract_metadata(
            source=str(own), destination=str(own), max_workers=1, include_image_geometry=False
        )
    return webshart.discover_dataset(str(own))


def main(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    loader = webshart.TarDataLoader(indexed(folder), load_file_data=True)
    if "state" in case:
        loader.load_state_dict(case["state"])
    steps: list[list[str]] = [[]]
    for entry in loader:
        if not entry.path.endswith(".jpg"):
            continue
        decode(bytes(entry.data))  # done by its user: the loader returns bytes, and has no hook for decoding
        if len(steps[-1]) == case["batch"]:
            steps.append([])
        steps[-1].append(Path(entry.path).stem)
        if len(steps) == case.get("stop") and len(steps[-1]) == case["batch"]:
            return {"ranks": [steps], "reported": 0, "state": loader.state_dict()}
    return {"ranks": [steps], "reported": 0, "state": None}


if __name__ == "__main__":
    tell(main, *given())
