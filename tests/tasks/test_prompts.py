"""`task=prompts` on small sets: tuned on the validation split alone, reported for all."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.pair_set import from_file, from_pairs
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.model.encode import encode_set, tokenizer_for
from diptych.model.load import Loaded
from diptych.tasks.prompts import PLAIN, by_rule, table, tuning_split, write_prompts
from samples import COLOURS, picture

SYNONYMS = {"red": ["crimson", "scarlet"], "blue": ["navy"]}


def evalset(name: str, role: str, count: int, first: int = 0) -> EvalSet:
    items = [(f"{name}/{n}", picture(n), n % len(COLOURS), "") for n in range(first, first + count)]
    return EvalSet(name, list(COLOURS), ["a {} square.", "{}"], items, role)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    torch.manual_seed(0)
    model = diptych.create_model("vit_tiny").eval()
    return Loaded(model, tokenizer_for(model), {}, 0, Path("none"))


def tuned(loaded: Loaded, sets: list[EvalSet], out: Path) -> dict[str, Any]:
    context = {"start": "a photo of a", "steps": 3, "lr": 0.01}
    return write_prompts(out, loaded, sets, ["flowers"], SYNONYMS, 3, context)


def test_what_is_reported_is_what_the_prompts_give(loaded: Loaded, tmp_path: Path) -> None:
    sets = [evalset("held", "validation", 16), evalset("shift", "shift", 12, 16)]
    metrics = tuned(loaded, sets, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    told = metrics["prompts"]
    assert told["tuned_on"] == "held" and told["search"]["candidates"] == 4  # plain, two of the set's, one pinned
    assert told["sets"]["held"]["tuned_here"] and not told["sets"]["shift"]["tuned_here"]
    assert told["search"]["accuracy"][told["search"]["taken"] - 1] == told["sets"]["held"]["searched"]["top1"]
    encoded = encode_set(loaded.model, sets[1])
    for way, templates in (("plain", [PLAIN]), ("searched", told["search"]["chosen"][: told["search"]["taken"]])):
        classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, list(COLOURS), templates)
        expected = classify(encoded.features, classifier, encoded.labels)["top1"]
        assert told["sets"]["shift"][way]["top1"] == pytest.approx(expected)
    for way in ("own_templates", "searched", "synonyms", "learned_context"):
        row = told["sets"]["shift"][way]
        assert row["gain"] == pytest.approx(row["top1"] - told["sets"]["shift"]["plain"]["top1"])
        assert row["interval"][0] <= row["gain"] <= row["interval"][1]
    assert "tuned here" in table(metrics) and "known for 2 of 4 classes" in table(metrics)


def test_a_context_starts_as_the_best_single_template_does(loaded: Loaded, tmp_path: Path) -> None:
    held = dataclasses.replace(evalset("held", "validation", 16), templates=["a {} square.", "one {}", "{}"])
    context = {"start": None, "steps": 1}
    told = write_prompts(tmp_path, loaded, [held], [], SYNONYMS, 3, context)["prompts"]
    encoded = encode_set(loaded.model, held)
    right = {}
    for words, template in (("a photo of a", PLAIN), ("a", "a {} square."), ("one", "one {}")):
        classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, list(COLOURS), [template])
        right[words] = classify(encoded.features, classifier, encoded.labels)["top1"]
    assert right[told["context"]["start"]] == max(right.values())


def test_no_test_split_has_a_say(loaded: Loaded, tmp_path: Path) -> None:
    """Other labels, other pictures, other sets: what was chosen and learned is the same."""
    held, shift = evalset("held", "validation", 16), evalset("shift", "shift", 12, 16)
    moved = dataclasses.replace(shift, items=[(k, d, (y + 1) % 4, c) for k, d, y, c in copy.copy(shift.items)])
    first = tuned(loaded, [held, shift], tmp_path / "a")["prompts"]
    for sets in ([moved, held], [held, evalset("test", "test", 4), moved], [held]):
        other = tuned(loaded, sets, tmp_path / "b")["prompts"]
        assert all(other[key] == first[key] for key in ("tuned_on", "search", "synonyms", "context"))
    for role in ("test", "shift", "unseen", "redrawn"):
        with pytest.raises(UserError, match="None of x has the role validation, and prompts are never tuned"):
            tuning_split([evalset("x", role, 4)])


def test_synonym_rules_are_templates_of_their_names(loaded: Loaded) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    each = by_rule(loaded, ["red", "green"], SYNONYMS, "a prompt for each name")
    names = ["a photo of a red.{}", "a photo of a crimson.{}", "a photo of a scarlet.{}"]
    torch.testing.assert_close(each[:1], zero_shot_classifier(model, tokenizer, [""], names))
    torch.testing.assert_close(each[1:], zero_shot_classifier(model, tokenizer, ["green"], [PLAIN]))
    one = by_rule(loaded, ["red"], SYNONYMS, "all names in one prompt")
    torch.testing.assert_close(one, zero_shot_classifier(model, tokenizer, ["red, crimson, scarlet"], [PLAIN]))


def test_synonyms_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SYNONYMS))
    assert from_file(str(tmp_path / "a.json")) == SYNONYMS
    with pytest.raises(UserError, match="is missing"):
        from_file(str(tmp_path / "none.json"))
    (tmp_path / "a.json").write_text('{"red": "crimson"}')
    with pytest.raises(UserError, match="must map class names to lists of names"):
        from_file(str(tmp_path / "a.json"))
    tags = from_pairs(str(ROOT / "data/emoji/train/core.json"), "tags")
    assert tags["cyclone"] == ["dizzy", "hurricane", "twister", "typhoon", "weather"]
    with pytest.raises(UserError, match=r"No sample of .* has a label and a list 'nothing'"):
        from_pairs(str(ROOT / "data/emoji/train/core.json"), "nothing")
