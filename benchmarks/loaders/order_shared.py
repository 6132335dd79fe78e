"""Shared by the scripts *_order.py, which benchmarks/order.py starts in the peers' environment.

A script prints, as JSON, the batches of each rank of each layout for one epoch, and those after a resume on another
layout. Each loader gets its rank as its documentation says.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

Keys = list[list[str]]  # of each step of one rank


def samples(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The key and the picture of every sample, in the order of the tars."""
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as opened:
            for member in opened:
                if member.name.endswith(".jpg"):
                    content = opened.extractfile(member)
                    assert content is not None
                    yield member.name.removesuffix(".jpg"), content.read()


def decode(picture: bytes) -> None:
    """Decodes a picture, in every loader's own hook. Raises OSError for a truncated picture."""
    Image.open(io.BytesIO(picture)).convert("RGB")


def tell(found: Callable[..., Any], *args: Any) -> None:
    """Print the result of a case, or the error that ends it."""
    try:
        print(json.dumps({"found": found(*args)}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}))


def given() -> tuple[Path, dict[str, Any]]:
    """The folder of the tars, and the case: ranks, workers, batch, streams; stop, or the state to resume from."""
    return Path(sys.argv[1]), json.loads(sys.argv[2])
