"""A model's recall between pictures and their captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.data.text.tokenizer import Tokenizer
from diptych.evaluation.retrieval import recall
from diptych.model.encode import encode_texts
from diptych.towers.clip import CLIP

WAYS = ("text_to_image", "image_to_text")


def caption_recall(model: CLIP, tokenizer: Tokenizer, images: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """Recall of images [N, D] and their captions, each several lines. Where captions are shared by pictures, any
    picture of the same caption is right; `shared_captions` counts those captions, and `own_picture_alone` is the
    recall that takes a caption's own picture alone as right, as CLIP_benchmark does."""
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
