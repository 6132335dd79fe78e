"""open_clip's tokenizer, the peer: its one file loaded by itself, since its package imports torchvision."""

from __future__ import annotations

from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parents[2] / ".venv-peers"


def installed(environment: Path = PEERS) -> Path | None:
    """The folder of packages of an environment that holds open_clip, as that of `make peers`, if it is there."""
    files = environment.glob("lib/python3*/site-packages/open_clip/tokenizer.py")
    return next((file.parents[1] for file in files), None)


def load(site: Path) -> Any:
    """A SimpleTokenizer from a folder of packages that holds open_clip."""
    spec = spec_from_file_location("open_clip_tokenizer", site / "open_clip" / "tokenizer.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer


def versions(site: Path) -> dict[str, str]:
    """The peer's version, and those of what it and we work with."""
    peer = next(iter(metadata.distributions(name="open_clip_torch", path=[str(site)]))).version
    return {"open_clip_torch": peer, **{name: metadata.version(name) for name in ("regex", "ftfy")}}
