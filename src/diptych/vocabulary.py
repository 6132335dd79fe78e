"""How a run's own vocabulary goes with it: a copy in its folder, its text in each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diptych.atomic import write

VOCABULARY = "vocabulary.txt"  # in the run's folder, where it is not OpenAI's


def keep_vocabulary(cfg: DictConfig, run_dir: Path) -> None:
    """The run reads a copy of its own, so that it goes on the same whatever becomes of the file."""
    from diptych.data import bpe

    if cfg.model.text.get("vocabulary") is not None:
        write(run_dir / VOCABULARY, bpe.read(cfg.model.text.vocabulary).text)
        name_vocabulary(cfg, run_dir)


def name_vocabulary(cfg: DictConfig, run_dir: Path) -> None:
    """Where the run's own copy lies, also after its folder was moved."""
    for key in ("model.text.vocabulary", "data.tokenizer.vocabulary"):
        if OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, str(run_dir / VOCABULARY))


def carrying_vocabulary(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config with its vocabulary in place of the file's name: a checkpoint needs no file beside it."""
    from diptych.data import bpe

    text = dict(model["text"])
    if text.get("vocabulary") is not None:
        text["vocabulary"] = bpe.read(text["vocabulary"]).text
    return {**model, "text": text}
