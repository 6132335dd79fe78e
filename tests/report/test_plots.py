"""The README's figure: right size, drawn from the run's numbers, refused without them; and the notebook's
drawings."""

import json

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from diptych.base.errors import UserError
from diptych.report.plots import draw_map, draw_similarity, results_figure


def test_the_figure_has_its_size_and_shows_the_numbers(run_dir, tmp_path):
    results_figure(run_dir, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1600, 700)
        before = torch.tensor(list(image.convert("L").tobytes()))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["zeroshot"]["sets"]["flat"]["top1"] = 0.9
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    results_figure(run_dir, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        changed = (torch.tensor(list(image.convert("L").tobytes())) != before).reshape(700, 1600)
    assert changed.any() and not changed[:, 720:].any()  # the bar is longer, the pictures are the same


@pytest.mark.parametrize("file", ["metrics.json", "examples.json"])
def test_without_numbers_or_pictures_there_is_no_figure(run_dir, tmp_path, file):
    (run_dir / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        results_figure(run_dir, tmp_path / "a.png")


def test_names_that_look_like_formulae_are_text(run_dir, tmp_path):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["zeroshot"]["sets"]["$\\frac{$"] = metrics["zeroshot"]["sets"]["flat"]
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    shown = json.loads((run_dir / "examples.json").read_text())
    shown["examples"][0] |= {"label": "$x^", "top": [["$y_{", 0.5]]}
    shown["examples"][1]["image"] = "broken"
    (run_dir / "examples.json").write_text(json.dumps(shown))
    results_figure(run_dir, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


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
