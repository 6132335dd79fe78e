"""Compose every choice of every group and resolve it: a config that can't be composed does not get in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diptych.base.files import ROOT
from diptych.commands.resolvers import register_resolvers

ENTRIES = {"train": ("model", "data", "loss", "optim", "schedule", "trainer", "logger", "callbacks", "recipe")}
ENTRIES |= {"evaluate": ("task", "data"), "embed": ("data",), "pack": ("source",)}
ENTRIES |= {"plan": ("model", "trainer", "loss")}
GROUPLESS = ("convert",)
GIVEN_PHRASES = {"supervised": "classes", "visual_ngrams": "ngrams"}
GIVEN = {"webdataset": ["data.shards=x.tar"]}


def choices() -> Iterator[tuple[str, list[str]]]:
    """(entry point, overrides) of every choice, and of every sweep."""
    for entry, groups in ENTRIES.items():
        for group in groups:
            files = sorted((ROOT / "conf" / group).glob("*.yaml"))
            assert files, f"conf/{group} holds no config"
            for file in files:
                if entry == "train" and group == "data" and "\nshards:" not in file.read_text():
                    continue  # sets to evaluate on
                yield entry, [f"{group}={file.stem}", *(GIVEN.get(file.stem, []) if group == "data" else [])]
    yield from ((entry, []) for entry in GROUPLESS)
    for recipe in ("supervised", "visual_ngrams"):
        yield "train", [f"recipe=[demo,{recipe}]"]
        yield "train", [f"recipe={recipe}", "model=rn101", f"{GIVEN_PHRASES[recipe]}=README.md"]
    for file in sorted((ROOT / "conf/model/text").glob("*.yaml")):
        yield "train", [f"model/text={file.stem}"]


def check(entry: str, overrides: list[str]) -> None:
    """Compose and resolve one; Hydra's own node is left out, since it needs a job."""
    os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
    os.environ.setdefault("DIPTYCH_STAMP", "stamp")
    register_resolvers()
    with initialize_config_dir(str(Path(ROOT) / "conf"), version_base="1.3"):
        given = ["name=check"] if entry == "train" else []
        cfg = compose(entry, [*overrides, *given])
    OmegaConf.to_container(cfg, resolve=entry == "train")


if __name__ == "__main__":
    checked = [check(entry, overrides) for entry, overrides in choices()]
    print(f"{len(checked)} configs compose")
    sys.exit(not checked)
