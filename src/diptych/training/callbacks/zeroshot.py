"""Zero-shot accuracy while training, every n steps, shared out over the ranks."""

from __future__ import annotations

from typing import Any

import lightning as L

from diptych.data.evalset import EvalSet
from diptych.encode import encode_set, tokenizer_for
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.towers.clip import CLIP
from diptych.training.callbacks.checkpoints import Checkpoints
from diptych.training.parallel import whole


class ZeroShot(L.Callback):
    """Validates on the data module's sets of the role `validation` or `test`; the shifts stay unseen until the end.

    every: steps between two validations; the last step is always one. 0: never
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every or (step % self.every and step != trainer.max_steps):
            return
        sets = [s for s in trainer.datamodule.evaluate if s.role in ("validation", "test")]  # type: ignore[attr-defined]
        with whole(pl_module):
            scores = [self._top1(pl_module, evalset) for evalset in sets]
        for evalset, score in zip(sets, scores, strict=True):
            for logger in trainer.loggers:
                logger.log_metrics({f"val/zeroshot/{evalset.name}/top1": score}, step)
        if scores:
            keeper = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
            keeper.improved(sum(scores) / len(scores))

    def _top1(self, pl_module: L.LightningModule, evalset: EvalSet) -> float:
        model = pl_module.model
        assert isinstance(model, CLIP)
        model.eval()
        classifier = zero_shot_classifier(model, tokenizer_for(model), evalset.classnames, evalset.templates)
        model.train()
        encoded = encode_set(model, evalset)
        return float(classify(encoded.features, classifier.float().cpu(), encoded.labels)["top1"])
