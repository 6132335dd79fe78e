"""`callbacks=profile` names the part that takes the time, and changes nothing that is trained."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import fit, same, saved, small_clip
from torch import Tensor, nn

from diptych.training.callbacks.profile import MADE, ORDER, REST, WAIT, Profile, _summed

SPIN = 0.1  # seconds, many times what a step of the small model takes, and what another process may take a core for


def spin() -> None:
    end = time.perf_counter() + SPIN
    while time.perf_counter() < end:
        pass


class Slow(torch.autograd.Function):
    """The identity, slow one way or the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: bool) -> Tensor:
        ctx.backward_spins = not forward
        if forward:
            spin()
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.backward_spins:
            spin()
        return gradient, None


class After(nn.Module):
    """What stands at a tower's end, in the place of its last norm."""

    def __init__(self, norm: nn.Module, forward: bool) -> None:
        super().__init__()
        self.norm, self.slow_forward = norm, forward

    def forward(self, x: Tensor) -> Tensor:
        return Slow.apply(self.norm(x), self.slow_forward)


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "profile.json").read_text())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("forward", [True, False])
def test_the_slow_part_is_named(tmp_path: Path, tower: str, forward: bool, accumulate: int) -> None:
    model = small_clip()
    if tower == "image":
        model.image.ln_post = After(model.image.ln_post, forward)
    else:
        model.text.ln_final = After(model.text.ln_final, forward)
    fit(tmp_path, model, steps=4, callbacks=[Profile(after=1, steps=3, traced=0)], accumulate=accumulate)
    parts = told(tmp_path)["parts"]
    name = f"{tower} tower" + ("" if forward else ", backward")
    assert list(parts) == list(ORDER) and max(parts, key=parts.__getitem__) == name, parts
    assert parts[name] > 0.9 * SPIN
    assert told(tmp_path)["steps"] == 3 and "operations" not in told(tmp_path)


def test_it_changes_nothing_and_leaves_a_trace(tmp_path: Path) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    fit(plain, small_clip(), steps=5)
    fit(watched, small_clip(), steps=5, callbacks=[Profile(after=1, steps=2, traced=1)])
    assert same(saved(plain, 5)["state_dict"], saved(watched, 5)["state_dict"])
    trace = json.loads(gzip.decompress((watched / "trace.json.gz").read_bytes()))
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"aten::addmm", "aten::mm"} & names
    found = told(watched)
    assert found["traced"] == 1 and 0 < found["operations"][0]["share"] <= 1 and found["communication"] == 0
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()), rel=0.5)


def test_a_run_shorter_than_the_profile_says_what_it_has(tmp_path: Path) -> None:
    fit(tmp_path, small_clip(), steps=3, callbacks=[Profile(after=1, steps=20, traced=2)])
    assert told(tmp_path)["steps"] == 2 and told(tmp_path)["seconds"] > 0
    other = tmp_path / "other"
    fit(other, small_clip(), steps=2, callbacks=[Profile(after=5)])
    assert told(other) == {"steps": 0, "after": 5}


def test_nothing_is_measured_or_kept_once_it_is_done(tmp_path: Path) -> None:
    """A long run goes on for days after its profile."""
    watched = Profile(after=1, steps=2, traced=1)
    fit(tmp_path, small_clip(), steps=9, callbacks=[watched])
    assert told(tmp_path)["steps"] == 2
    assert watched._marks == [] and watched._hooks == [] and watched._profiler is None


def test_marks_add_up_and_waiting_is_part_of_what_comes_before_the_step() -> None:
    marks = [("last", 1.0), (MADE, 3.0), (REST, 3.5), ("image tower", 6.5), (REST, 7.0)]
    assert _summed(marks, 1.5) == {WAIT: 1.5, MADE: 0.5, REST: 1.0, "image tower": 3.0}
    assert _summed(marks, 9.0)[WAIT] == 2.0  # no longer than there was
