"""Embeddings of a set: `python src/embed.py checkpoint=RUN_DIR data=…`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from diptych.base.terminal import say
from diptych.commands.claim import results
from diptych.commands.evaluate import opened, typed_sets
from diptych.launch.world import shared


def embed(cfg: DictConfig) -> Path:
    """Write a set's embeddings as Parquet; returns the file."""
    from diptych.commands.sets import about, lines
    from diptych.tasks.embeddings import write_embeddings

    folder, typed, loaded = opened(cfg)
    with shared(results(folder, numbered=not typed)) as out:
        sets = typed_sets(cfg, loaded)
        file, skipped = write_embeddings(out, loaded, sets)
        say("\n".join(filter(None, [lines(about(loaded, sets)), *skipped, f"embeddings: {file}"])))
    return file
