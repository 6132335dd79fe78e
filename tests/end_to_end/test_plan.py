"""`src/plan.py` as a user types it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from diptych.base.files import ROOT

Cli = Callable[..., "object"]


def number(text: str, name: str) -> float:
    """The figure behind `name` in a plan."""
    found = re.search(rf"^\s*{re.escape(name)}\s+([\d,.]+)", text, re.MULTILINE)
    assert found, (name, text)
    return float(found[1].replace(",", ""))


def test_a_plan_says_parameters_operations_memory_days_and_the_curve(cli: Cli) -> None:
    ended = cli("plan", "model=vit_b32", "trainer=fsdp", "ranks=64", "data.batch_size=32768", "machine.mfu=0.2")
    assert ended.code == 0, ended.err
    assert number(ended.out, "parameters") == 151_277_313
    assert number(ended.out, "GFLOP a pair") == pytest.approx(41.3, abs=0.1)
    # 512 pairs of 41.3 GFLOP and their loss, at a fifth of the peak
    assert number(ended.out, "computing") == pytest.approx(512 * 41.5e9 / (0.2 * 989e12), rel=0.01)
    assert number(ended.out, "optimiser") == pytest.approx(151_277_313 * 8 / 64 / 1e9, abs=0.01)
    rows = [line.split() for line in ended.out.split("GPU hours")[1].splitlines()[1:]]
    assert [int(row[0]) for row in rows] == [4, 8, 16, 32, 64, 128, 256]
    assert all(float(row[5]) > 0 for row in rows)


@pytest.mark.slow
def test_a_plan_says_that_its_share_of_the_peak_is_assumed_and_what_was_measured(cli: Cli) -> None:
    """The shares that it quotes are the pairs a second of docs/evidence/performance.md, by the plan's own count."""
    page = (ROOT / "docs/evidence/performance.md").read_text()
    for model in ("vit_b32", "vit_b16", "rn50"):
        said = cli("plan", f"model={model}").out
        assert "40% of the peak is an assumption" in said
        row = re.search(rf"^{model} +batch 256 +ours .* ([\d,]+) pairs/s", page, re.MULTILINE)
        assert row, model
        share = float(row[1].replace(",", "")) * number(said, "GFLOP a pair") * 1e9 / 989e12
        name = {"vit_b32": "ViT-B/32", "vit_b16": "ViT-B/16", "rn50": "RN50"}[model]
        assert f"{100 * share:.0f} % on {name}" in said
    assert "25% of the peak is an assumption" in cli("plan", "model=vit_tiny", "machine.mfu=0.25").out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ranks=7"], "7 ranks .* such as 32767"),
        (["trainer=fsdp", "trainer.strategy.replicas=3"], "replicas=3 does not divide the 256 ranks"),
        (["trainer.precision=64-true"], "has no plan: take one of 32-true"),
        (["tokens=78"], "tokens=78"),
        (["tokens=x"], "tokens=x must be a whole number"),
        (["trainer=fsdp", "trainer.strategy.replicas=x"], "trainer.strategy.replicas=x must be a whole number"),
        (["machine.mfu=40"], "machine.mfu=40 is a share"),
        (["samples=-1"], "samples=-1 must be a whole number"),
        (["rank=8"], "did you mean ranks"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_planned_is_one_sentence(cli: Cli, overrides: list[str], words: str) -> None:
    ended = cli("plan", "model=vit_tiny", *overrides)
    assert ended.code == 2 and re.search(words, ended.err), ended.err
    assert len(ended.err.strip().splitlines()) == 1 and not ended.out
