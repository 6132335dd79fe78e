"""Validation during the training, every n steps, divided among the ranks: on sets with classes, on sets with
captions, and on held-out pairs; and which of their numbers chooses `best.ckpt`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from diptych.base.quantities import Whole
from diptych.base.terminal import complain, counted, say
from diptych.data.sets.evalset import EvalSet, Identity, changes, describe, noted
from diptych.data.sets.held_out import HeldOut
from diptych.evaluation.accuracy import Accuracy, Calibration, sureness
from diptych.evaluation.zeroshot import count, zero_shot_classifier
from diptych.launch import distributed
from diptych.model.encode import (
    WAYS,
    caption_recall,
    encode_any,
    encode_set,
    encode_share,
    encode_texts,
    tokenizer_for,
)
from diptych.towers.clip import CLIP
from diptych.training.callbacks.checkpoints import Checkpoints
from diptych.training.parallel import whole

Numbers = dict[str, float]


class Choice(NamedTuple):
    """What chooses `best.ckpt`.

    told: for the log
    score: numbers of a validation -> the score; the highest one is the best
    sets: the names of the sets that the score depends on
    """

    told: str
    score: Callable[[Numbers], float]
    sets: tuple[str, ...] = ()


class ZeroShot(L.Callback):
    """Validates on the data module's sets with the role `validation` or `test`, and on its held-out pairs. Sets with
    other roles are not used before the end. A set with the role `test` is measured, but doesn't choose `best.ckpt`.

    every: steps between two validations, and the last step is always validated; 0 for none
    pairs: the newest numbers of the held-out pairs, as in `metrics.json`; empty without such pairs
    changes: sentences on sets that differ from those before a resume
    """

    def __init__(self, every: Whole) -> None:
        self.every = every
        self.pairs: dict[str, Any] = {}
        self.changes: list[str] = []
        self._now: tuple[list[EvalSet], HeldOut | None, Choice | None] = [], None, None
        self._sets: dict[str, Identity] | None = None  # of the last validation; None if not known
        self._choosing: list[str] | None = None  # the sets that choose `best.ckpt`; None if nothing does

    def state_dict(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "changes": self.changes, "sets": self._sets, "choosing": self._choosing}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pairs, self.changes = state_dict["pairs"], state_dict.get("changes", [])
        self._sets, self._choosing = noted(state_dict.get("sets")), state_dict.get("choosing")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.every:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        sets, pairs = [each for each in data.evaluate if each.role in ("validation", "test")], data.held_out
        chosen = choice(sets, pairs is not None, pl_module.model.reads_sentences)  # type: ignore[union-attr, arg-type]
        self._now = sets, pairs, chosen
        if trainer.is_global_zero and (sets or pairs):
            names = [f"{each.name} ({each.role})" for each in sets] + ["held-out pairs"] * (pairs is not None)
            told = chosen.told if chosen else "not chosen: no set has the role validation, and no pairs are held out"
            say(f"validation: every {counted(self.every, 'step')} on {', '.join(names)}; best.ckpt is {told}.")
        self.compare(trainer, sets, chosen)

    def compare(self, trainer: L.Trainer, sets: Sequence[EvalSet], chosen: Choice | None) -> None:
        """Compare the sets with those before a resume. Scores on different sets can't be compared, so the best one is
        then chosen again from here on. Held-out pairs are part of the training data, which a resume can't change."""
        # Rank 0 decides for all: a rank with a different folder must not choose a different step.
        now = distributed.gather_objects(describe(sets) if trainer.is_global_zero else None)[0]
        before, self._sets = self._sets, now
        chose, self._choosing = self._choosing, None if chosen is None else list(chosen.sets)
        if before is None or not (said := changes(before, now)):
            return
        then = "best.ckpt is chosen as before"
        if chosen and (self._choosing != chose or any(before.get(name) != now[name] for name in chosen.sets)):
            kept = _checkpoints(trainer).forget_best(trainer.global_step, trainer.is_global_zero)
            then = f"best.ckpt is chosen again from here on{f', and the earlier one stays as {kept}' if kept else ''}"
        elif chose is not None and not chosen:
            then = "best.ckpt is not chosen any more"
        text = (
            f"validation: from step {trainer.global_step} on, {'; '.join(said)}: these scores can't be compared with"
            f" those before; {then}."
        )
        self.changes = [*self.changes, text]
        if trainer.is_global_zero:
            complain(text)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every or (step % self.every and step != trainer.max_steps):
            return
        sets, pairs, chosen = self._now
        numbers: Numbers = {}
        with whole(pl_module):
            for evalset in sets:
                measure = _accuracy if evalset.classnames else _recall
                numbers |= measure(pl_module, evalset)
            if pairs is not None:
                size = trainer.datamodule.batch_size  # type: ignore[attr-defined]
                self.pairs = _on_pairs(pl_module, pairs, size) | {"step": step}
                numbers |= {"val/pairs/loss": self.pairs["loss"]} | _shares("val/pairs/recall", self.pairs)
        trainer.callback_metrics.update(numbers)  # type: ignore[arg-type]
        for logger in trainer.loggers if numbers else ():
            logger.log_metrics(numbers, step)
        if chosen:
            _checkpoints(trainer).improved(chosen.score(numbers))


def _checkpoints(trainer: L.Trainer) -> Checkpoints:
    checkpoints = trainer.checkpoint_callback
    assert isinstance(checkpoints, Checkpoints)
    return checkpoints


def choice(sets: Sequence[EvalSet], pairs: bool, sentences: bool) -> Choice | None:
    """The first of these that exists: mean top-1 of the sets with the role validation; mean recall@1 of those that
    have only captions; the loss of the held-out pairs. sentences: whether the model encodes captions"""
    mine = [evalset for evalset in sets if evalset.role == "validation"]
    if named := [each.name for each in mine if each.classnames]:
        keys = [f"val/zeroshot/{name}/top1" for name in named]
        told = f"the step of the highest mean top-1 of {', '.join(named)}"
        return Choice(told, lambda found: _mean(found, keys), tuple(named))
    if sentences and (named := [each.name for each in mine]):
        keys = [f"val/retrieval/{name}/{way}/R@1" for name in named for way in WAYS]
        told = f"the step of the highest mean R@1 of {', '.join(named)}"
        return Choice(told, lambda found: _mean(found, keys), tuple(named))
    if pairs:
        return Choice("the step of the lowest loss of the held-out pairs", lambda found: -found["val/pairs/loss"])
    return None


def _mean(found: Numbers, keys: list[str]) -> float:
    return sum(found[key] for key in keys) / len(keys)


def _accuracy(pl_module: L.LightningModule, evalset: EvalSet) -> Numbers:
    """Each rank measures its share of the images, and torchmetrics adds the counts up."""
    model: Any = pl_module.model
    assert isinstance(model, CLIP)
    model.eval()
    built = zero_shot_classifier(model, tokenizer_for(model), evalset.classnames, evalset.templates)
    model.train()
    own, classifier = encode_share(model, evalset), built.float().cpu()
    where = pl_module.device if pl_module.device.type == "cuda" else torch.device("cpu")  # where ranks can exchange
    accuracy = Accuracy(len(classifier), over_ranks=True).to(where)
    calibration = Calibration(over_ranks=True).to(where)
    count(accuracy, own.features, classifier, own.labels)
    said, sure = own.labels, torch.empty(0)
    if own.keys:
        said, sure = sureness(own.features, classifier, model.logit_scale.exp().item())
    calibration.update(sure, said == own.labels)
    numbers = accuracy.compute() | {"ece": calibration.compute()["ece"]}
    return {f"val/zeroshot/{evalset.name}/{key}": numbers[key] for key in ("top1", "top5", "ece")}


def _recall(pl_module: L.LightningModule, evalset: EvalSet) -> Numbers:
    model: Any = pl_module.model
    if not model.reads_sentences:
        return {}
    encoded = encode_set(model, evalset)
    found = _in_eval(model, lambda: caption_recall(model, tokenizer_for(model), encoded.features, encoded.captions))
    return _shares(f"val/retrieval/{evalset.name}", found)


def _shares(prefix: str, found: dict[str, Any]) -> Numbers:
    return {f"{prefix}/{way}/{k}": share for way in WAYS if way in found for k, share in found[way].items()}


def _on_pairs(pl_module: L.LightningModule, pairs: HeldOut, batch_size: int) -> dict[str, Any]:
    """The training's loss, in batches of the training's size, and recall over all pairs. The pairs are in the order
    of their hashes, and every rank computes all. For a pair with several captions the loss takes the first one."""
    model: Any = pl_module.model
    tokenizer = tokenizer_for(model)
    encoded = encode_any(model, pairs.evalset)
    skipped = {reason: len(keys) for reason, keys in encoded.skipped.items()}
    if not encoded.keys:
        return {"n": 0, "skipped": skipped, "loss": math.nan, **pairs.told}
    firsts = [caption.split("\n", 1)[0] for caption in encoded.captions]
    texts = _in_eval(model, lambda: encode_texts(model, tokenizer, firsts))
    found: dict[str, Any] = {"n": len(encoded.keys), "skipped": skipped, **pairs.told}
    found |= {"loss": _loss(pl_module, encoded.features, texts, pairs.groups_of(encoded.keys), batch_size)}
    if model.reads_sentences:
        found |= _in_eval(model, lambda: caption_recall(model, tokenizer, encoded.features, encoded.captions))
    return found


@torch.no_grad()
def _loss(pl_module: L.LightningModule, image: Tensor, text: Tensor, groups: Tensor | None, batch_size: int) -> float:
    """The mean over all full batches; over all pairs where they are fewer than one batch."""
    size = min(batch_size, len(image))
    losses = []
    with distributed.alone():
        for start in range(0, len(image) - size + 1, size):
            part = slice(start, start + size)
            of = [x[part].to(pl_module.device) for x in (image, text)]
            more = () if groups is None else (groups[part].to(pl_module.device),)
            losses.append(pl_module.loss(*of, pl_module.model.logit_scale.exp(), *more).double())  # type: ignore
    return torch.stack(losses).mean().item()


def _in_eval(model: CLIP, compute: Callable[[], Any]) -> Any:
    training = model.training
    model.eval()
    try:
        return compute()
    finally:
        model.train(training)
