"""Features of a set: in its order, what can't be read named, and the same bits from any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo import on_ranks

import diptych
from diptych.base.errors import UserError
from diptych.data.sets.evalset import EvalSet
from diptych.model.encode import encode_set
from samples import COLOURS, picture


def a_set(count: int, bad: tuple[int, ...] = ()) -> EvalSet:
    items = [(f"key/{n}", b"none" if n in bad else picture(n), n % 4, f"caption {n}") for n in range(count)]
    return EvalSet("a set", list(COLOURS), ["{}"], items)


def encoded(rank: int, world: int, count: int, bad: tuple[int, ...]) -> dict[str, Any]:
    torch.manual_seed(0)
    model = diptych.create_model("vit_tiny").train()
    found = encode_set(model, a_set(count, bad), batch_size=4)
    assert model.training
    return vars(found)


@pytest.mark.parametrize(
    ("count", "bad"),
    [
        (22, (0, 9)),  # a last batch in part
        (3, ()),  # fewer batches than ranks
        (8, (4, 5, 6, 7)),  # a rank without a picture
    ],
)
def test_ranks_share_a_set_out_and_all_have_all(count: int, bad: tuple[int, ...]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = encoded(0, 1, count, bad)
    torch.set_num_threads(threads)
    assert alone["keys"] == [f"key/{n}" for n in range(count) if n not in bad]
    assert [key for keys in alone["skipped"].values() for key in keys] == [f"key/{n}" for n in bad]
    assert alone["labels"].tolist() == [n % 4 for n in range(count) if n not in bad]
    for found in on_ranks(3, encoded, count, bad):
        assert torch.equal(found.pop("features"), alone["features"])
        assert torch.equal(found.pop("labels"), alone["labels"])
        assert found == {name: alone[name] for name in ("keys", "captions", "skipped")}


def test_a_set_of_which_nothing_can_be_read_is_named() -> None:
    with pytest.raises(UserError, match=r"No picture of the set a set can be read \(3 × not a readable image\)"):
        encoded(0, 1, 3, (0, 1, 2))
