"""What a training step does with a batch."""

from __future__ import annotations

import torch

from diptych.base.batch import Batch, normalise
from diptych.commands.create import create_model
from diptych.loss import ContrastiveLoss
from diptych.model.patches import kept_patches
from diptych.training.module import ContrastiveModule
from diptych.training.optim import adamw, warmup_cosine


def module_of(patch_dropout: float, accumulate: int = 1) -> ContrastiveModule:
    torch.manual_seed(0)
    model = create_model("vit_tiny", {"image.patch_dropout": patch_dropout})
    return ContrastiveModule(model, ContrastiveLoss(), adamw, warmup_cosine, 10, accumulate=accumulate)


def batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=draw, dtype=torch.uint8)
    tokens = torch.randint(1, 49000, (8, 12), generator=draw)
    tokens[:, -1] = 49407
    return Batch(images, tokens, torch.arange(8) * 11)


def test_a_step_reads_the_patches_that_the_samples_seeds_draw() -> None:
    module, given = module_of(0.5), batch()
    model = module.model
    pixels = normalise(given.images, model.mean, model.std)
    kept = kept_patches(model, given.seeds, pixels)
    image = model.encode_image(pixels, normalize=True, kept=kept)
    text = model.encode_text(given.tokens, normalize=True)
    expected = ContrastiveLoss()(image, text, model.logit_scale.exp())
    torch.testing.assert_close(module.training_step(given, 0), expected)
    assert not torch.isclose(module_of(0.0).training_step(given, 0), expected)
    torch.testing.assert_close(module_of(0.5, accumulate=4).training_step(given, 0), expected)
