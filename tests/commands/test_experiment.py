"""Whether a run may become a longer one, and what the user reads where it may not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diptych.base.errors import UserError
from diptych.commands.experiment import check_length
from diptych.training.optim import warmup_constant, warmup_cosine

CONSTANT = partial(warmup_constant, warmup=2)
STILL, GROWING = SimpleNamespace(by_progress=False), SimpleNamespace(by_progress=True)


@pytest.mark.parametrize(
    ("schedule", "augment", "said"),
    [
        (warmup_cosine, None, "its learning rates follow from its length, and the 4 steps taken were those"),
        (partial(warmup_constant, warmup=0.5), STILL, "schedule=constant, with schedule.warmup in steps"),
        (CONSTANT, GROWING, "its pictures follow from its length"),
        (warmup_cosine, GROWING, "its learning rates and pictures follow"),
    ],
)
def test_a_refusal_says_what_happens_why_and_both_ways_out(schedule: Any, augment: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        check_length(schedule, augment, 4, 10, 4, Path("/my runs/a"))
    words = str(error.value)
    assert words.startswith("resume=/my runs/a can't become a run of 10 steps: ") and said in words
    assert "in a new run ('model.pretrained=/my runs/a' trainer.max_steps=6), or begin again" in words


def test_a_run_whose_steps_stay_may_become_longer_and_never_shorter() -> None:
    check_length(CONSTANT, STILL, 4, 10, 4, Path("a"))
    with pytest.raises(UserError, match="less than the 1 step that resume=a has taken: give at least 1"):
        check_length(CONSTANT, None, 4, 0, 1, Path("a"))
