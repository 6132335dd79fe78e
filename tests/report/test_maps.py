"""Drawings for the notebook: what is on the axes is what was given."""

import pytest
import torch
from matplotlib.figure import Figure

from diptych.report.maps import draw_map, draw_similarity


def test_similarity_shows_the_matrix_with_its_names():
    axes = Figure().subplots()
    draw_similarity(axes, torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.4]]), ["a", "b"], ["x", "y", "z"])
    assert axes.images[0].get_array().tolist()[1][0] == pytest.approx(0.8)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]


def test_map_has_a_mark_for_every_group():
    axes = Figure().subplots()
    points = torch.arange(8.0).reshape(4, 2)
    draw_map(axes, points, ["s", "t", "s", "u"], torch.tensor([0.5, 0.25]))
    drawn = {group.get_label(): group.get_offsets().tolist() for group in axes.collections}
    assert drawn == {"s": [[0, 1], [4, 5]], "t": [[2, 3]], "u": [[6, 7]]}
    assert "50%" in axes.get_xlabel() and "25%" in axes.get_ylabel()
