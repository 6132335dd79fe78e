"""Pinned class names, templates and subsets are those that were pinned, and say so when they are not."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from found import found

from diptych.base.errors import UserError
from diptych.data.sets import benchmarks


def test_every_file_is_listed_with_its_hash() -> None:
    listed = json.loads((benchmarks.ROOT / "sources.json").read_text())["sha256"]
    there = {str(file.relative_to(benchmarks.ROOT)): file.read_bytes() for file in found(benchmarks.ROOT, "*/*.txt")}
    assert {name: sha256(text).hexdigest() for name, text in there.items()} == listed
    for name in there:
        folder, _, file = name.partition("/")
        if file == benchmarks.TEMPLATES:
            assert all(line.count("{}") == 1 for line in benchmarks.templates(folder)), name
        elif file == benchmarks.NAMES:
            assert all(line == line.strip() != "" for line in benchmarks.class_names(folder)), name


def test_imagenet_and_its_subsets() -> None:
    ids = benchmarks.wnids("imagenet1k")
    assert len(ids) == len(benchmarks.class_names("imagenet1k")) == 1000 and ids == sorted(set(ids))
    assert len(benchmarks.templates("imagenet1k")) == 80
    assert benchmarks.class_names("imagenet1k")[ids.index("n01440764")] == "tench"
    assert benchmarks.class_names("imagenet1k")[ids.index("n03126707")] == "construction crane"
    for subset in ("imagenet-a", "imagenet-r"):
        assert len(benchmarks.wnids(subset)) == 200 and set(benchmarks.wnids(subset)) < set(ids)
    both = set(benchmarks.wnids("imagenet-a")) & set(benchmarks.wnids("imagenet-r"))
    assert 50 < len(both) < 200


def test_a_benchmark_that_is_not_pinned_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"benchmark 'pets' has no pinned wnids.txt: take one of imagenet-a, imag"):
        benchmarks.wnids("pets")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/classnames.txt").write_text("cat\ndog\n")
    monkeypatch.setattr(benchmarks, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"differs from what sources\.json pins"):
        benchmarks.class_names("pets")
