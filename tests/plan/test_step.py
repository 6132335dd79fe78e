"""What a rank holds, by strategy; `benchmarks/parallel.py` holds the sum to a process's peak."""

from __future__ import annotations

from dataclasses import replace

import counted
import pytest
import torch
from gloo import on_ranks

from diptych.commands.create import create_model
from diptych.loss import ContrastiveLoss, SigLIPLoss
from diptych.plan.counts import Counts, count
from diptych.plan.layout import PRECISIONS, Layout, Machine, arrange
from diptych.plan.step import flops, memory, step_of

MIXED = PRECISIONS["bf16-mixed"]
WIDE = Layout(64, 32_768)


def counts_of(name: str, recompute: bool = False) -> Counts:
    with torch.device("meta"):
        model = create_model(name, {})
    return count(model, 77, half=True, recompute=recompute)


def test_shards_divide_what_is_replicated_and_micro_batches_what_is_kept() -> None:
    counts = counts_of("vit_b32")
    copy, shards = memory(counts, WIDE, MIXED), memory(counts, replace(WIDE, shard=64), MIXED)
    for part in ("weights", "gradients", "optimiser"):
        assert copy[part] == 64 * shards[part]
    assert copy["optimiser"] == 8 * counts.trained
    assert copy["logits"] == 4 * 4 * 512 * 32_768
    parts = memory(counts, replace(WIDE, micro=8), MIXED)
    assert parts["activations"] < copy["activations"] / 8 and parts["logits"] == copy["logits"]
    # autocast's copies are each rank's own; where shards are gathered in 16 bits there are none
    assert shards["16-bit copies"] == copy["16-bit copies"] > counts.parameters
    assert "16-bit copies" not in memory(counts, replace(WIDE, shard=64), PRECISIONS["bf16-true"])
    again = memory(counts_of("vit_b32", recompute=True), replace(WIDE, recompute=True), MIXED)
    assert again["activations"] < copy["activations"] / 3
    assert flops(counts, replace(WIDE, micro=8)) > 1.3 * flops(counts, WIDE)


def test_one_rank_holds_gradients_where_activations_were() -> None:
    counts = counts_of("vit_b32")
    assert "gradients" not in memory(counts, Layout(1, 256), MIXED)
    few = memory(counts, Layout(1, 8), MIXED)
    assert few["gradients"] + few["activations"] + few["the block at work"] == pytest.approx(4 * counts.trained)
    assert memory(counts, Layout(2, 512), MIXED)["gradients"] == 4 * counts.trained


def test_micro_batches_are_summed_beside_the_buckets_of_ddp() -> None:
    """Between two parts of the pictures what lives is more by the tower's gradient."""
    single, two = PRECISIONS["32-true"], Layout(2, 64, micro=4)
    counts = count(counted.small("vit_tiny"), counted.TOKENS, half=False)
    (first, *later) = on_ranks(1, counted.between_parts, 4)[0]
    assert [now - first for now in later] == [memory(counts, two, single)["sums over micro-batches"]] * 3
    for none in (replace(two, micro=1), replace(two, ranks=1), replace(two, shard=2)):
        assert "sums over micro-batches" not in memory(counts, none, single)


def test_the_loss_chooses_as_it_does_in_a_run() -> None:
    few, many = (arrange(ranks, 32_768, 1, ContrastiveLoss()) for ranks in (8, 256))
    assert few.ring and few.tile and not many.ring and many.tile is None
    assert arrange(256, 32_768, 1, SigLIPLoss()).ring
    assert not arrange(8, 32_768, 1, ContrastiveLoss(tile=None)).ring


def test_other_numbers_of_ranks_keep_the_batch_and_the_way_of_sharing() -> None:
    loss = ContrastiveLoss()
    assert [other.ranks for other in arrange(256, 32_768, 1, loss).alike(loss)] == [16, 32, 64, 128, 256, 512, 1024]
    assert {other.shard for other in arrange(256, 32_768, 1, loss).alike(loss)} == {1}
    assert all(other.shard == other.ranks for other in arrange(256, 32_768, 1, loss, replicas=1).alike(loss))
    assert {other.shard for other in arrange(256, 32_768, 1, loss, replicas=32).alike(loss)} == {8}


def test_a_step_never_takes_less_than_its_computing_and_hiding_never_hurts() -> None:
    counts = counts_of("rn50")
    for layout in (WIDE, replace(WIDE, shard=64), replace(WIDE, shard=8)):
        step = step_of(counts, layout, MIXED, Machine())
        assert step.compute < step.seconds <= step.slowest


@pytest.mark.slow
def test_shards_keep_autocasts_copies_whole_and_none_where_they_are_gathered_in_16_bits() -> None:
    """By real passes on two ranks; what is left of the second is inputs and statistics."""
    plain = sum(tower.kept.fixed for tower in count(counted.small("vit_tiny"), counted.TOKENS, half=True).towers)
    assert on_ranks(2, counted.copies, None) == pytest.approx([plain] * 2, rel=0.02)
    assert max(on_ranks(2, counted.copies, torch.bfloat16)) < plain / 10
