"""What a training step does with a batch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from diptych.base.batch import Batch, normalise
from diptych.commands.create import create_model
from diptych.loss import ContrastiveLoss
from diptych.model.patches import kept_patches
from diptych.towers.clip import CLIP
from diptych.training.accumulation import features
from diptych.training.module import ContrastiveModule, compile_towers
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


ROWS = 16


def step(model: CLIP, longest: int, parts: int) -> tuple[float, torch.Tensor]:
    """Loss and whole gradient on captions of up to `longest` words."""
    generator = torch.Generator().manual_seed(longest)
    images = torch.randint(0, 256, (ROWS, 3, 32, 32), generator=generator, dtype=torch.uint8)
    tokens = torch.zeros(ROWS, 77, dtype=torch.long)
    tokens[:, 0] = 49406
    for row in range(ROWS):
        words = 1 + longest * row // ROWS
        tokens[row, 1 : words + 1] = torch.randint(1, 4000, (words,), generator=generator)
        tokens[row, words + 1] = 49407
    model.zero_grad()
    image, text = features(model, images, tokens, parts)
    loss = ContrastiveLoss()(image, text, model.logit_scale.exp())
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.slow
def test_compiled_towers_are_the_towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cache of its own: a compiler that was killed leaves half a library in the shared one.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    plain = create_model("vit_tiny", {"image.layers": 1, "text.layers": 2}).train()  # compiled in half the time
    model = copy.deepcopy(plain)
    compile_towers(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert list(copy.deepcopy(model).state_dict()) == list(plain.state_dict())
    torch._dynamo.utils.counters.clear()
    for longest in (5, 9, 14, 20, 40, 75, 33):
        loss, gradient = step(model, longest, parts=2)
        expected, exact = step(plain, longest, parts=2)
        assert abs(loss - expected) / expected < 1e-5
        assert (gradient - exact).norm() / exact.norm() < 1e-5
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
