"""The README's figure: right size, drawn from the run's numbers, refused without them."""

import json

import pytest
import torch
from PIL import Image

from diptych.base.errors import UserError
from diptych.report.plots import results_figure


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
