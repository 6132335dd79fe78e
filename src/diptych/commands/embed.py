"""Embeddings of a set: `python src/embed.py checkpoint=RUN_DIR data=…`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from diptych.base.terminal import say
from diptych.commands.claim import results
from diptych.commands.evaluate import typed_sets
from diptych.commands.typed import folder_of, given
from diptych.launch.sharing import place, shared


def embed(cfg: DictConfig) -> Path:
    """Write a set's embeddings as Parquet; returns the file."""
    from diptych.commands.prompted import about, chosen, lines
    from diptych.model.load import load
    from diptych.tasks import zeroshot as assess

    folder, typed = folder_of(cfg, "out")
    chosen(cfg.data.get("templates"))
    loaded = load(given(cfg, "checkpoint"), allow_targets=cfg.allow_targets)
    place(loaded.model)
    with shared(results(folder, numbered=not typed)) as out:
        sets = typed_sets(cfg, loaded)
        file, skipped = assess.write_embeddings(out, loaded, sets)
        say("\n".join([lines(about(loaded, sets)), *skipped, f"embeddings: {file}"]))
    return file
