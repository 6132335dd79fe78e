"""Which words a model was trained on: so that an evaluation can say that a prompt's words were none of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning as L

from diptych.base.batch import Batch
from diptych.data.text.seen_words import record_of
from diptych.data.text.tokenizer import Tokenizer
from diptych.launch import distributed


class Words(L.Callback):
    """Counts the words of the run's first captions, and has every checkpoint say them (`describe["words"]`).

    captions: how many captions of all ranks are looked at; a small set has fewer, of a large one they are enough to
        meet the words that prompts are made of
    """

    def __init__(self, captions: int) -> None:
        self.captions = captions
        self.counts: Counter[str] = Counter()
        self.read = 0  # captions, those of all ranks before a resume among them
        self._before: dict[str, Any] = {}
        self._texts: dict[tuple[int, ...], str] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        tokenizer = trainer.datamodule.pairs.tokenizer  # type: ignore[attr-defined]
        if self.read >= self.captions or not isinstance(tokenizer, Tokenizer):
            return
        self.read += len(batch) * trainer.world_size
        for ids in tokenizer.words(batch.tokens):
            if ids not in self._texts:
                self._texts[ids] = tokenizer.decode(ids)
            self.counts[self._texts[ids]] += 1

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """All ranks call it."""
        if not self.read:
            return
        total = sum(distributed.gather_objects(self.counts), Counter[str]())
        record = self._before
        if total:
            record = record_of(total + Counter(record.get("words", "").split()), self.read)
            record["distinct"] = max(record["distinct"], self._before.get("distinct", 0))
        pl_module.describe = {**pl_module.describe, "words": record}  # type: ignore[assignment, dict-item]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._before = checkpoint["diptych"].get("words") or {}
        self.read = self._before.get("captions", 0)
