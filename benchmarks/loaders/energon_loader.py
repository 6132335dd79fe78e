"""Megatron-Energon over the same tars with its own index.

"default": its own decoder gives float tensors, which torchvision crops and resizes; shuffle buffer 100, as in its
quick start. "tuned": its decoder is off, so that the buffer holds encoded bytes and can be 1,000; the task encoder
decodes with Pillow and runs open_clip's transform.
"""

from __future__ import annotations

import io
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import simple_tokenizer
import torch
from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_savable_loader, get_train_dataset, stateless
from PIL import Image
from torch import Tensor
from torchvision import transforms

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FIELDS = '{"image": "jpg", "caption": "txt"}'


def prepare(folder: Path) -> Path:
    """Makes its own index over hard links to the tars, so that our files stay unchanged."""
    own = folder / "energon"
    if not (own / ".nv-meta" / "dataset.yaml").exists():
        own.mkdir(exist_ok=True)
        for tar in folder.glob("*.tar"):
            if not (own / tar.name).exists():
                (own / tar.name).hardlink_to(tar)
        command = Path(sys.executable).parent / "energon"
        options = [
            "--non-interactive",
            "--split-ratio",
            "1,0,0",
            "--sample-type",
            "CaptioningSample",
            "--no-progress",
        ]
        options += ["--field-map", FIELDS, "--num-workers", "2", "--force-overwrite"]
        subprocess.run([command, "prepare", own, *options], check=True, capture_output=True, text=True)
    return own


def index(args: Namespace) -> dict[str, str]:
    """Makes its index before anything is timed."""
    return {"folder": str(prepare(args.folder))}


class Encoder(DefaultTaskEncoder):
    def __init__(self, tuned: bool) -> None:
        super().__init__()
        crop = transforms.RandomResizedCrop(224, (0.9, 1.0), interpolation=transforms.InterpolationMode.BICUBIC)
        steps = [crop, transforms.ToTensor()] if tuned else [crop]
        self.transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
        self.tuned = tuned
        if tuned:
            self.decoder = None
        site = simple_tokenizer.installed(Path(sys.prefix))
        assert site is not None
        self.tokenizer = simple_tokenizer.load(site)()

    @stateless(restore_seeds=True)
    def encode_sample(self, sample: Any) -> tuple[Tensor, Tensor]:
        image, caption = sample.image, sample.caption
        if self.tuned:
            image, caption = Image.open(io.BytesIO(image)).convert("RGB"), caption.decode()
        return self.transform(image), self.tokenizer([caption])[0]

    @stateless
    def batch(self, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images, tokens = zip(*samples, strict=True)
        return torch.stack(images), torch.stack(tokens)


def batches(args: Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches, float [B, 3, 224, 224] and int64 [B, 77]; from the state in `args.state`, if given."""
    tuned = args.setting == "tuned"
    dataset = get_train_dataset(
        prepare(args.folder),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=args.workers),
        batch_size=args.batch,
        shuffle_buffer_size=1000 if tuned else 100,
        max_samples_per_sequence=100,
        task_encoder=Encoder(tuned),
    )
    loader = get_savable_loader(dataset)
    if args.state and Path(args.state).exists():
        loader.restore_state_rank(torch.load(args.state, weights_only=False))
    for count, batch in enumerate(loader, 1):
        yield batch
        if args.save_after == count:
            torch.save(loader.save_state_rank(), args.state)
