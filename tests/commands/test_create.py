"""Models made from Python: what may be given, and what the caller reads where it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import diptych
from diptych.base.errors import UserError


def test_a_part_is_given_as_keys_or_as_a_dict() -> None:
    model = diptych.create_model("vit_tiny", image={"image_size": 16, "layers": 1}, text__layers=1)
    assert model.encode_image(torch.zeros(2, 3, 16, 16)).shape == (2, model.image.embed_dim)
    for shape in ((2, 16, 16, 3), (3, 16, 16), (2, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"and this model takes \[B, 3, 16, 16\]"):
            model.encode_image(torch.zeros(shape))


def test_images_of_another_size_are_encoded_and_said_once() -> None:
    model = diptych.create_model("vit_tiny", image={"image_size": 16, "layers": 1}, text__layers=1)
    with pytest.warns(UserWarning, match="Images have 32 × 16 pixels and this model is made for 16 × 16") as said:
        for _ in range(2):
            assert model.encode_image(torch.zeros(2, 3, 32, 16)).shape == (2, model.image.embed_dim)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": 5}, "image=5 is no tower: give a mapping of its keys"),
        ({"text": None}, "text=None is no tower"),
        ({"image": {"layers": {"a": 1}}}, r"model\.image\.layers\.a is unknown: did you mean model\.image\.layers"),
        ({"image": {"width": [1, 2]}}, r"model\.image\.width=\[1, 2\] must be a whole number"),
        ({"image__layers": "x"}, r"model\.image\.layers=x must be a whole number"),
        ({"image": {"width": {1, 2}}}, r"image\.width=\{1, 2\} is a set, which no config can hold"),
    ],
)
def test_a_value_of_the_wrong_shape_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        diptych.create_model("vit_tiny", **given)
