"""Groups: which samples belong together, from a field of their `.json`, through workers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diptych.data.pixels.image import TrainImage
from diptych.data.stream.captions import BadSample, group_of
from diptych.data.stream.index import open_index
from diptych.data.stream.pairs import Pairs
from diptych.data.stream.steps import Steps
from diptych.data.stream.worker import Place, Stream
from samples import write_shards


def letters(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[ord(c) for c in text[:24].ljust(24)] for text in texts])


@pytest.mark.parametrize(("left", "right"), [("cat", "cat"), (7, 7), (["a", 1], ["a", 1]), ({"a": 1}, {"a": 1})])
def test_equal_values_are_one_group(left: object, right: object) -> None:
    numbers = [group_of({"json": json.dumps({"concept": value}).encode()}, "concept") for value in (left, right, "7")]
    assert numbers[0] == numbers[1] != numbers[2]
    assert -(2**63) <= numbers[0] < 2**63


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b'{"concept": null}', b"\xff"])
def test_a_sample_without_its_group_is_bad(data: bytes) -> None:
    with pytest.raises(BadSample, match="json"):
        group_of({"json": data}, "concept")


@pytest.mark.parametrize("workers", [0, 2])
def test_groups_stand_in_the_batch(tmp_path: Path, workers: int) -> None:
    def grouped(number: int, sample: dict) -> dict:
        if number == 5:
            return sample
        return sample | {"json": json.dumps({"colour": number % 4}).encode()}

    index = open_index(str(write_shards(tmp_path, [10, 6], grouped)))
    stream = Stream(
        index, Pairs(TrainImage(24), letters, "colour"), seed=1, batch_size=8, streams=2, start=0, stop=2,
        place=Place(), memory=0,
    )  # fmt: skip
    steps = Steps(stream, workers, max_bad=0.5)
    known = {colour: group_of({"json": json.dumps({"colour": colour}).encode()}, "colour") for colour in range(4)}
    for batch in steps:
        assert batch.groups is not None
        numbers = [int(key.rsplit("/", 1)[1]) for key in batch.keys]
        assert batch.groups.tolist() == [known[number % 4] for number in numbers]
        assert batch.to("cpu").groups is not None
    assert steps.skipped == {"no .json that names the sample's group": {"train-000000.tar": 1}}
