"""open_clip's tokenizer. Only its file is loaded, since the package imports torchvision."""

from __future__ import annotations

from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parents[2] / ".venv-peers"


def installed(environment: Path = PEERS) -> Path | None:
    """The package folder of an environment with open_clip, such as that of `make peers`; None if there is none."""
    files = environment.glob("lib/python3*/site-packages/open_clip/tokenizer.py")
    return next((file.parents[1] for file in files), None)


def load(site: Path) -> Any:
    """A SimpleTokenizer from a package folder with open_clip."""
    spec = spec_from_file_location("open_clip_tokenizer", site / "open_clip" / "tokenizer.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer


def versions(site: Path) -> dict[str, str]:
    """The versions of open_clip and of the packages that both tokenizers use."""
    peer = next(iter(metadata.distributions(name="open_clip_torch", path=[str(site)]))).version
    return {"open_clip_torch": peer, **{name: metadata.version(name) for name in ("regex", "ftfy")}}
