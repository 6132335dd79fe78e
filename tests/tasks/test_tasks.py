"""task=robustness, probe and fewshot on small sets: the tables say what the models answer, and what they can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.base.errors import UserError
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.probe import fit_probe
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.model.encode import encode_set, tokenizer_for
from diptych.model.load import Loaded
from diptych.tasks import fewshot
from diptych.tasks import probe as probing
from diptych.tasks import quality as inspecting
from diptych.tasks import robustness as comparing
from samples import COLOURS, picture

OTHERS = ["a dog", "a cat", "a cow", "a hen"]


def evalset(name: str, role: str, first: int, count: int = 24, classes: list[str] | None = None) -> EvalSet:
    items = [(f"{name}/{n}", picture(n), n % len(COLOURS), "") for n in range(first, first + count)]
    return EvalSet(name, classes or list(COLOURS), ["a {} square."], items, role)


SETS = [
    evalset("usual", "validation", 0), evalset("shift", "shift", 100), evalset("odd", "shift", 200, 8),
    evalset("other", "unseen", 300, 24, OTHERS),
]  # fmt: skip
TRAIN = evalset("train", "train", 400, 40)


def model(name: str, **overrides: Any) -> Loaded:
    torch.manual_seed(0)
    made = diptych.create_model(name, **overrides).eval()
    return Loaded(made, tokenizer_for(made), {}, 0, Path("none"))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return model("vit_tiny")


def top1(loaded: Loaded, evalset: EvalSet) -> float:
    classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, evalset.classnames, evalset.templates)
    encoded = encode_set(loaded.model, evalset)
    return classify(encoded.features, classifier, encoded.labels)["top1"]


def test_robustness_without_baselines(loaded: Loaded, tmp_path: Path) -> None:
    metrics = comparing.write_robustness(tmp_path, loaded, SETS, None, None, TRAIN, 0)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    encoded = encode_set(loaded.model, TRAIN)
    probe = fit_probe(encoded.features, encoded.labels, 4, 0)
    for each in SETS:
        row = metrics["robustness"][each.name]
        assert row["zeroshot"] == pytest.approx(top1(loaded, each)) and row["n"] == len(each)
        assert row["interval"][0] <= row["zeroshot"] <= row["interval"][1]
        assert row["supervised"] is row["difference"] is row["effective_robustness"] is None
        assert row["not_computed"]["supervised"] == "task.supervised= names no run"
        if each.name != "other":
            tested = encode_set(loaded.model, each)
            right = (probe.scores(tested.features).argmax(dim=1) == tested.labels).double().mean().item()
            assert row["linear_probe"] == pytest.approx(right)
    assert "other classes than other" in metrics["robustness"]["other"]["not_computed"]["linear_probe"]
    mean = metrics["robustness_mean"]
    assert mean["zeroshot"] == pytest.approx((top1(loaded, SETS[1]) + top1(loaded, SETS[2])) / 2)
    assert mean["n"] == 32 and mean["supervised"] is None
    assert "–: task.supervised= names no run" in comparing.table(metrics)


def test_robustness_beside_a_baseline(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervised model is one that reads class names alone: with other classes it has no number."""
    from diptych.towers.indicator import LabelTower

    baseline = model("vit_tiny", image__embed_dim=4, text__embed_dim=4)
    baseline.model.text = LabelTower(4, list(COLOURS), baseline.tokenizer)
    monkeypatch.setattr(comparing, "load", lambda path: baseline)
    metrics = comparing.write_robustness(tmp_path, loaded, SETS, "run", None, None, 0)
    for each in SETS[:3]:
        row = metrics["robustness"][each.name]
        encoded = encode_set(baseline.model, each)
        right = (encoded.features.argmax(dim=1) == encoded.labels).double().mean().item()
        assert row["supervised"] == pytest.approx(right)
        assert row["difference"] == pytest.approx(row["zeroshot"] - row["supervised"])
        low, high = row["intervals"]["difference"]
        assert low <= row["difference"] <= high
        ends = row["intervals"]["effective_robustness"]
        assert (row["effective_robustness"] is None) == (ends is None) == (each.role == "validation")
        assert ends is None or ends[0] <= row["effective_robustness"] <= ends[1]
    assert "effective robustness of zero-shot" in comparing.table(metrics)
    shifts = [metrics["robustness"][each.name]["effective_robustness"] for each in SETS[1:3]]
    assert metrics["robustness_mean"]["effective_robustness"] == pytest.approx(sum(shifts) / 2)
    other = metrics["robustness"]["other"]
    assert other["supervised"] is None
    assert "other for task.supervised: 4 of its 4 class names" in other["not_computed"]["supervised"]
    assert other["not_computed"]["linear_probe"] == "data.labelled= gives no labelled training pictures"


def test_probe(loaded: Loaded, tmp_path: Path) -> None:
    metrics = probing.write_probe(tmp_path, loaded, SETS, TRAIN, k=5, seed=0)
    assert metrics["probe"]["other"] == {
        "not_computed": "its classes are not those of the labelled training pictures"
    }
    robust = comparing.write_robustness(tmp_path, loaded, SETS, None, None, TRAIN, 0)["robustness"]
    for each in SETS[:3]:
        row = metrics["probe"][each.name]
        assert row["linear_probe"] == robust[each.name]["linear_probe"]
        assert row["zeroshot"] == pytest.approx(robust[each.name]["zeroshot"]) and 0 <= row["knn"] <= 1
    assert metrics["probe_how"]["pictures"] == 40 and metrics["probe_how"]["empty_classes"] == []
    assert "chosen on a fifth of the training pictures" in probing.table(metrics)
    with pytest.raises(UserError, match="task=probe needs labelled training pictures"):
        probing.write_probe(tmp_path, loaded, SETS, None, 5, 0)


def test_a_class_without_a_training_picture_is_named(loaded: Loaded, tmp_path: Path) -> None:
    train = evalset("train", "train", 400, 40)
    train.items = [item for item in train.items if item[2] != 2]
    metrics = probing.write_probe(tmp_path, loaded, SETS[:1], train, 5, 0)
    assert metrics["probe_how"]["empty_classes"] == [list(COLOURS)[2]]
    assert f"no training picture of 1 class: {list(COLOURS)[2]}" in probing.table(metrics)


def test_fewshot(loaded: Loaded, tmp_path: Path) -> None:
    metrics = fewshot.write_fewshot(tmp_path, loaded, SETS, TRAIN, [1, 4, 16], draws=3, seed=0)
    told = metrics["fewshot"]["sets"]
    assert list(told) == [each.name for each in SETS]
    assert told["shift"]["shots_from"] == "train" and told["other"]["shots_from"] == "other"
    for each in SETS:
        row = told[each.name]
        assert row["zeroshot"] == pytest.approx(top1(loaded, each))
        assert row["not_computed"].keys() == {"16"}
        for points in row["curves"].values():
            assert points.keys() == {"1", "4"}
            for point in points.values():
                assert len(point["draws"]) == 3
                assert point["interval"][0] <= point["top1"] <= point["interval"][1]
    assert told["shift"]["not_computed"]["16"] == "0 of 4 classes have 16 pictures in train"
    assert told["other"]["not_computed"]["16"] == "0 of 4 classes have 17 pictures in other"
    assert told["shift"]["pictures_a_class"] == {"1": 1.0, "4": 4.0}
    assert "16 a class: not computed" in fewshot.table(metrics)
    with pytest.raises(UserError, match=r"task.draws=1 must be 2 to 10"):
        fewshot.write_fewshot(tmp_path, loaded, SETS, TRAIN, [1], draws=1, seed=0)


def test_shots_of_a_set_are_not_tested_on(loaded: Loaded) -> None:
    encoded = encode_set(loaded.model, SETS[3])
    pool = fewshot._Pool(encoded, "other", own=True)
    for k in (1, 4, 9):
        shots, rest = fewshot._split(pool, k, 0)
        assert not set(shots.tolist()) & set(rest.tolist()) and len(shots) + len(rest) == 24
        assert torch.bincount(encoded.labels[rest], minlength=4).min() >= 1  # a class keeps one to be tested on


def test_quality_and_duplicates(loaded: Loaded, tmp_path: Path) -> None:
    """Three test pictures are training pictures: they are found, and the accuracy is also told without them."""
    tested = evalset("tested", "test", 0, 12)
    tested.items[:3] = [(f"tested/{n}", data, label, "") for n, (_, data, label, _) in enumerate(TRAIN.items[:3])]
    metrics = inspecting.write_quality(tmp_path, loaded, [tested], TRAIN, bits=0, cosine=0.999999)
    found = metrics["duplicates"]["tested"]
    assert found["exact"] == found["left_out"] == 3 <= found["hash"]
    assert [(pair["test"], pair["train"]) for pair in found["pairs"]] == [
        (f"tested/{n}", f"train/{400 + n}") for n in range(3)
    ]
    encoded = encode_set(loaded.model, tested)
    classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, tested.classnames, tested.templates)
    left = classify(encoded.features[3:], classifier, encoded.labels[3:])["top1"]
    assert found["top1_without"] == left and found["top1"] == top1(loaded, tested)
    assert metrics["quality"]["tested"].keys() >= {"alignment", "uniformity", "gap", "dimension", "purity"}
    assert "tested" in inspecting.table(metrics)
    alone = inspecting.write_quality(tmp_path, loaded, [tested], None, bits=0, cosine=1.0)
    assert "not computed: data.labelled= gives no training pictures" in inspecting.table(alone)
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
