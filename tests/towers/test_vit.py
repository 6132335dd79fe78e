from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import UserError
from diptych.towers.positions import resize_positions
from diptych.towers.vit import VisionTransformer


def small_vit(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "image_size": 16,
        "patch_size": 4,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "embed_dim": 10,
    }
    return VisionTransformer(**(given | changes)).double()


def written_out(tower: VisionTransformer, images: Tensor) -> Tensor:
    """The tower from its parameters, patch by patch; the blocks are tested in test_transformer.py."""
    patch = tower.conv1.kernel_size[0]
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    kernel = tower.conv1.weight.flatten(1)
    tokens = [tower.class_embedding.expand(len(images), -1)]
    for row in range(rows):
        for column in range(columns):
            piece = images[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append(piece.flatten(1) @ kernel.T)
    positions = resize_positions(tower.positional_embedding, tower.grid, (rows, columns))
    x = torch.stack(tokens, dim=1) + positions
    x = F.layer_norm(x, x.shape[-1:], tower.ln_pre.weight, tower.ln_pre.bias)
    x = tower.transformer(x)[:, 0]
    return F.layer_norm(x, x.shape[-1:], tower.ln_post.weight, tower.ln_post.bias) @ tower.proj


@pytest.mark.parametrize("size", [(16, 16), (12, 12), (16, 24)])
def test_values_and_gradients_equal_the_definition(size: tuple[int, int]) -> None:
    tower = small_vit()
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    out, expected = tower(images), written_out(tower, images)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    parameters = list(tower.parameters())
    mine = torch.autograd.grad(out.square().sum(), parameters)
    other = torch.autograd.grad(expected.square().sum(), parameters)
    for gradient, reference in zip(mine, other, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10)


def test_one_head_per_64_channels_unless_said() -> None:
    tower = VisionTransformer(image_size=8, patch_size=4, width=128, layers=1, embed_dim=4)
    block: Any = tower.transformer.resblocks[0]
    assert block.attn.heads == 2


def test_patches_that_do_not_tile_are_refused() -> None:
    with pytest.raises(UserError, match="Patches of 5 pixels"):
        small_vit(patch_size=5)
