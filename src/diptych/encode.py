"""A model over a labelled set: features, once, for every evaluation; and the tokenizer that its text tower reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diptych.batch import normalise
from diptych.data.evalset import EvalSet
from diptych.data.tokenizer import Tokenizer
from diptych.errors import UserError
from diptych.towers.clip import CLIP
from diptych.towers.indicator import Indicator


@dataclass
class Encoded:
    """features: float [N, D], L2-normalised; labels: int64 [N]; keys and captions: N each;
    skipped: reason -> keys that could not be read"""

    features: Tensor
    labels: Tensor
    keys: list[str]
    captions: list[str]
    skipped: dict[str, list[str]]


def tokenizer_for(model: CLIP) -> Tokenizer:
    """The tokenizer of a model's own context and vocabulary. Raises UserError where the text tower has another number
    of ids."""
    tokenizer = Tokenizer(model.context_length, model.vocabulary)
    if tokenizer.vocab_size != model.text.vocab_size:
        raise UserError(
            f"The text tower has {model.text.vocab_size} ids and its vocabulary {tokenizer.vocab_size}: give"
            " model.text.vocabulary the file that the tower was made for, and leave model.text.vocab_size out."
        )
    return tokenizer


def readable(model: CLIP, sets: Sequence[EvalSet]) -> tuple[list[EvalSet], dict[str, str]]:
    """The sets that the text tower can be asked for, and the others' names with the reason.

    A tower of fixed phrases takes a class name as it is, without a template, and only one that is or holds a phrase
    of its own; any other tower reads every name.
    """
    text = model.text
    if not isinstance(text, Indicator):
        return list(sets), {}
    tokenizer, kept, left = tokenizer_for(model), [], {}
    for evalset in sets:
        unknown = int((~text.knows(tokenizer(evalset.classnames))).sum()) if evalset.classnames else 0
        if unknown:
            left[evalset.name] = (
                f"{unknown:,} of its {len(evalset.classnames):,} class names are, or hold, none of the model's"
                f" {text.embed_dim:,} phrases"
            )
        else:
            kept.append(replace(evalset, templates=["{}"]))
    return kept, left


@torch.no_grad()  # not inference mode, whose tensors no probe could be fitted to
def encode_set(model: CLIP, evalset: EvalSet, batch_size: int = 256) -> Encoded:
    """Image features of a whole set, in its order, in fp32 and eval mode, at the model's own image size."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    features, labels, keys, captions = [], [], [], []
    for batch in evalset.batches(batch_size, model.image_size):
        images = normalise(batch.images.to(device), model.mean, model.std)
        features.append(model.encode_image(images, normalize=True).float().cpu())
        labels.append(batch.labels)
        keys += batch.keys
        captions += batch.captions
    model.train(training)
    if not features:
        raise ValueError(f"no picture of the set {evalset.name} could be read")
    return Encoded(torch.cat(features), torch.cat(labels), keys, captions, dict(evalset.skipped))
