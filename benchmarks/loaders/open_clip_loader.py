"""open_clip's pipeline, built by its own training code: shards, shuffle, Pillow, torchvision, its tokenizer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import open_clip
from open_clip.transform import image_transform
from open_clip_train.data import get_wds_dataset
from torch import Tensor

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def batches(args: Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of float [B, 3, 224, 224] and int64 [B, 77], with its defaults (scale 0.9–1, buffer of 5,000)."""
    given = Namespace(
        train_data="::".join(sorted(map(str, args.folder.glob("*.tar")))),
        train_num_samples=args.images,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=args.batch,
        workers=args.workers,
        world_size=1,
    )
    transform = image_transform(224, is_train=True, mean=MEAN, std=STD)
    yield from get_wds_dataset(given, transform, True, tokenizer=open_clip.get_tokenizer("ViT-B-32")).dataloader
