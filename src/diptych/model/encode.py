"""A model's features of an evaluation set, computed once for all evaluations, and the tokenizer of its text tower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diptych.base.batch import normalise
from diptych.base.errors import UserError
from diptych.base.terminal import say
from diptych.data.sets.evalset import EvalSet
from diptych.data.text.tokenizer import Tokenizer
from diptych.evaluation.retrieval import recall
from diptych.launch.distributed import gather_objects, rank, world_size
from diptych.towers.clip import CLIP
from diptych.towers.indicator import Indicator

WAYS = ("text_to_image", "image_to_text")


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
    """The tokenizer for a model's context length and vocabulary. Raises UserError if the text tower has another
    number of ids."""
    tokenizer = Tokenizer(model.context_length, model.vocabulary)
    if tokenizer.vocab_size != model.text.vocab_size:
        raise UserError(
            f"The text tower has {model.text.vocab_size} ids and its vocabulary {tokenizer.vocab_size}: give"
            " model.text.vocabulary the file that the tower was made for, and leave model.text.vocab_size out."
        )
    return tokenizer


def readable(model: CLIP, sets: Sequence[EvalSet]) -> tuple[list[EvalSet], dict[str, str]]:
    """The sets whose class names the text tower can encode, and the reasons why not, by the names of the other sets.

    A tower of fixed phrases encodes a class name without a template, and only if the name is or contains one of its
    phrases. Any other tower encodes every name.
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


def classified(sets: Sequence[EvalSet], task: str) -> list[EvalSet]:
    """The sets that have classes. Sets with only captions are named on the terminal. Raises UserError if no set has
    classes."""
    without = [evalset.name for evalset in sets if not evalset.classnames]
    if without and len(without) == len(sets):
        raise UserError(
            f"{', '.join(without)} has captions and no classes, which task={task} needs: evaluate it with"
            " task=retrieval, or give labelled pictures: a folder a class (data=folder data.path=DIR), or shards"
            " whose KEY.json have a `label`."
        )
    if without:
        say(f"{', '.join(without)}: captions and no classes, so there is no number of task={task}.")
    return [evalset for evalset in sets if evalset.classnames]


def encode_set(model: CLIP, evalset: EvalSet, batch_size: int = 256) -> Encoded:
    """The image features of a whole set, in its order, in fp32 and eval mode, at the model's image size.

    Each rank encodes some of the batches and gets the features of all. The batches are those of one process, so that
    the features are the same bit for bit. Raises UserError if no image can be read.
    """
    found = encode_any(model, evalset, batch_size)
    if not found.keys:
        told = ", ".join(f"{len(keys):,} × {reason}" for reason, keys in found.skipped.items())
        raise UserError(f"No picture of the set {evalset.name} can be read ({told}): restore its pictures.")
    return found


def encode_any(model: CLIP, evalset: EvalSet, batch_size: int = 256) -> Encoded:
    """Like `encode_set`, without an error if no image can be read."""
    parts = gather_objects(encode_share(model, evalset, batch_size))
    skipped: dict[str, list[str]] = {}
    for part in parts:
        for reason, keys in part.skipped.items():
            skipped.setdefault(reason, []).extend(keys)
    read = [part for part in parts if part.keys] or parts[:1]
    keys, captions = ([each for part in read for each in getattr(part, what)] for what in ("keys", "captions"))
    features, labels = (torch.cat([getattr(part, what) for part in read]) for what in ("features", "labels"))
    return Encoded(features, labels, keys, captions, skipped)


def encode_share(model: CLIP, evalset: EvalSet, batch_size: int = 256) -> Encoded:
    """Like `encode_set`, for this rank's share of the images, which may be empty."""
    batches = -(-len(evalset) // batch_size)
    first, last = (batches * place // world_size() * batch_size for place in (rank(), rank() + 1))
    return _encode_own(model, replace(evalset, items=evalset.items[first:last], skipped={}), batch_size)


@torch.no_grad()  # not inference_mode: no probe could be trained on its tensors
def _encode_own(model: CLIP, evalset: EvalSet, batch_size: int = 256) -> Encoded:
    """Like `encode_any`, in this process only."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    features, labels, keys, captions = [torch.empty(0)], [torch.empty(0, dtype=torch.long)], [], []
    for batch in evalset.batches(batch_size, model.image_size):
        images = normalise(batch.images.to(device), model.mean, model.std).to(model.logit_scale.dtype)
        features.append(model.encode_image(images, normalize=True).float().cpu())
        labels.append(batch.labels)
        keys += batch.keys
        captions += batch.captions
    model.train(training)
    found = torch.cat(features[1:] or features)
    return Encoded(found, torch.cat(labels), keys, captions, dict(evalset.skipped))


@torch.inference_mode()
def encode_texts(model: CLIP, tokenizer: Tokenizer, texts: list[str], batch_size: int = 512) -> Tensor:
    device = next(model.parameters()).device
    parts = [
        model.encode_text(tokenizer(texts[start : start + batch_size]).to(device), normalize=True).float().cpu()
        for start in range(0, len(texts), batch_size)
    ]
    return torch.cat(parts)


def caption_recall(model: CLIP, tokenizer: Tokenizer, images: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """Recall between images [N, D] and their captions, one per line of a text. If several images share a caption,
    each of them is right; `shared_captions` counts such captions, and `own_picture_alone` is the recall if only the
    caption's own image is right, as in CLIP_benchmark."""
    lines = [(line, owner) for owner, caption in enumerate(captions) for line in caption.split("\n")]
    numbers = {line: number for number, line in enumerate(dict.fromkeys(line for line, _ in lines))}
    owners = torch.tensor([owner for _, owner in lines])
    alike = torch.tensor([numbers[line] for line, _ in lines])
    features = encode_texts(model, tokenizer, list(numbers))[alike]
    found: dict[str, Any] = recall(images, features, owners, alike=alike)
    shared = Counter(line for line, _ in set(lines))
    count = sum(shared[line] > 1 for line, _ in lines)
    if not count:
        return found
    alone = recall(images, features, owners)
    return found | {"shared_captions": count, "own_picture_alone": {way: alone[way] for way in WAYS}}
