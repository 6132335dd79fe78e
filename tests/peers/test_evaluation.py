"""Zero-shot and retrieval numbers beside open_clip's and CLIP_benchmark's code: same model, same files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset as wds
from peers.test_folders import PLAIN, checkpoint, vit

from diptych.base.batch import normalise
from diptych.data.sets.benchmark_set import benchmark_sets
from diptych.evaluation.zeroshot import classify, zero_shot_classifier
from diptych.interop.formats import convert
from diptych.model.encode import encode_set
from diptych.model.load import load
from diptych.tasks.retrieval import write_retrieval
from samples import picture

pytestmark = pytest.mark.slow

NAMES = ["cat", "dog", "red square", "blue square", "a green thing", "house", "tree", "car", "cup", "moon", "fish"]
TEMPLATES = ["a photo of a {c}.", "{c}", "many {c} in the rain"]
PICTURES = 80


def captions() -> list[list[str]]:
    """Two to five a picture, all different."""
    rng = random.Random(0)
    words = [*["small", "large", "old", "new", "bright", "dark"], *NAMES]
    counts = [rng.randint(2, 5) for _ in range(PICTURES)]
    return [[f"{' '.join(rng.sample(words, 4))} number {n} {k}" for k in range(m)] for n, m in enumerate(counts)]


def write_sets(folder: Path) -> None:
    rng = random.Random(1)
    for name in ("classes", "captions"):
        (folder / name / "test").mkdir(parents=True)
        (folder / name / "test/nshards.txt").write_text("1\n")
        with wds.TarWriter(str(folder / name / "test/0.tar"), encoder=False) as writer:
            for n, texts in enumerate(captions()):
                told = {"cls": str(rng.randrange(len(NAMES)))} if name == "classes" else {"txt": "\n".join(texts)}
                encoded = {key: value.encode() for key, value in told.items()}
                writer.write({"__key__": f"{n:04d}", "png": picture(n, side=40 + n % 30), **encoded})
    (folder / "classes/classnames.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "classes/zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    (folder / "captions/dataset_type.txt").write_text("retrieval\n")


def as_theirs(found: dict[str, Any]) -> dict[str, float]:
    """Our retrieval under CLIP_benchmark's names, which say what is retrieved."""
    ways = {"image_retrieval": found["text_to_image"], "text_retrieval": found["image_to_text"]}
    return {f"{way}_recall@{k}": shares[f"R@{k}"] for way, shares in ways.items() for k in (1, 5, 10)}


def test_the_numbers_are_open_clips_and_clip_benchmarks(
    tmp_path: Path, in_peers: Callable[..., dict[str, Any]]
) -> None:
    write_sets(tmp_path)
    file = checkpoint(vit(PLAIN), tmp_path)
    convert(file, "open_clip", tmp_path / "model")
    loaded = load(file)
    classes, pairs = (benchmark_sets(str(tmp_path / name))[0] for name in ("classes", "captions"))
    encoded = encode_set(loaded.model, classes)
    classifier = zero_shot_classifier(loaded.model, loaded.tokenizer, classes.classnames, classes.templates)
    ours = classify(encoded.features, classifier, encoded.labels)
    found = write_retrieval(tmp_path, loaded, [pairs])["retrieval"]["captions"]
    (whole,) = pairs.batches(PICTURES, loaded.model.image_size)
    pixels = normalise(whole.images, loaded.model.mean, loaded.model.std)
    given = {"pixels": pixels, "labels": encoded.labels, "captions": captions()}
    torch.save(given, tmp_path / "pixels.pt")
    theirs = in_peers("evaluation.py", str(tmp_path))
    assert 0.02 < ours["top1"] < ours["top5"] < 1 and 0 < found["text_to_image"]["R@10"] < 1
    equal = theirs["pixels"]
    assert equal["open_clip"] == {key: pytest.approx(ours[key], abs=1e-12) for key in ("top1", "top5")}
    named = {"acc1": ours["top1"], "acc5": ours["top5"], "mean_per_class_recall": ours["mean_per_class"]}
    assert equal["benchmark"] == {key: pytest.approx(value, abs=1e-12) for key, value in named.items()}
    shares = {key: pytest.approx(value, abs=1e-7) for key, value in as_theirs(found).items()}  # theirs are float32
    assert equal["retrieval"] == shares
    # From the files, each by its own reader, decoder and resize: pixels differ by a level here and there, these not.
    assert theirs["files"]["benchmark"] == {key: pytest.approx(value, abs=1e-12) for key, value in named.items()}
    assert theirs["files"]["retrieval"] == shares
