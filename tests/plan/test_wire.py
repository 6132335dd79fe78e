"""The model's bytes are those that real ranks send, by the kernel's count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from counted import DIMENSIONS, TOKENS, Case, sent, small
from gloo import on_ranks

from diptych.loss import ContrastiveLoss, SigLIPLoss
from diptych.plan.counts import count
from diptych.plan.layout import GLOO, NCCL, PRECISIONS, Layout, Machine
from diptych.plan.wire import Traffic, all_gather, all_reduce, features, reduce_scatter, seconds, traffic

SINGLE = PRECISIONS["32-true"]


def model_of(case: Case) -> float:
    if case.norm:
        plain = count(small("vit_tiny"), TOKENS, False)
        counts = replace(plain, image=replace(plain.image, norms=(case.norm,)))
        return next(p.sent for p in traffic(counts, case.layout, SINGLE, GLOO) if p.name == "batch norm")
    if case.model is None:
        return features(DIMENSIONS, case.layout, GLOO).sent
    return sum(part.sent for part in traffic(count(small(case.model), TOKENS, False), case.layout, SINGLE, GLOO))


def held_to_ranks(world: int, cases: list[Case], within: float) -> None:
    ranks = on_ranks(world, sent, cases)
    counted = [sum(each) / world for each in zip(*ranks, strict=True)]
    for case, found in zip(cases, counted, strict=True):
        assert model_of(case) == pytest.approx(found, rel=within), case


def test_bytes_of_a_step_on_two_ranks() -> None:
    alone, model = Layout(2, 1024), Layout(2, 16)
    ring = replace(alone, ring=True, tile=256)
    held_to_ranks(
        2,
        [
            Case(alone, loss=ContrastiveLoss(tile=None)),
            Case(ring, loss=ContrastiveLoss(tile=256)),
            Case(ring, loss=SigLIPLoss(tile=256)),
            Case(model, norm=32_768),
            Case(model, "vit_tiny"),
            Case(replace(model, micro=2), "vit_tiny"),
            Case(replace(model, shard=2), "vit_tiny"),
        ],
        within=0.02,
    )


@pytest.mark.slow
def test_bytes_of_a_step_on_four_ranks() -> None:
    alone, model = Layout(4, 2048), Layout(4, 32)
    held_to_ranks(
        4,
        [
            Case(alone, loss=ContrastiveLoss(tile=None)),
            Case(replace(alone, ring=True, tile=256), loss=ContrastiveLoss(tile=256)),
            Case(model, "rn_tiny"),
            Case(replace(model, shard=4, micro=2), "vit_tiny"),
            Case(replace(model, shard=4, micro=2, recompute=True), "vit_tiny"),
            Case(replace(model, shard=2), "vit_tiny"),
        ],
        within=0.03,
    )


def test_gloo_scatters_by_reducing_everything() -> None:
    assert reduce_scatter(4, 1000.0, GLOO) == all_reduce(4, 1000.0) == 2 * reduce_scatter(4, 1000.0, NCCL) == 1500.0
    assert all_gather(4, 250.0) == 750.0


def test_a_group_within_a_node_has_the_fast_links_and_one_across_has_as_many_links_as_ranks_there() -> None:
    machine = Machine(node=8, inside=80.0, between=4.0)
    assert seconds(Traffic("", 320.0, ranks=8, hops=0), machine) == 4.0
    assert seconds(Traffic("", 320.0, ranks=64, hops=0), machine) == 10.0  # eight links of 4
    assert seconds(Traffic("", 320.0, ranks=8, hops=0, stride=8), machine) == 80.0  # one rank a node
    assert seconds(Traffic("", 320.0, ranks=64, hops=0, neighbours=True), machine) == 40.0  # one link each way
