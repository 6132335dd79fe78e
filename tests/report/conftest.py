"""A run folder with every part, small and made from known numbers."""

import json
from pathlib import Path

import pytest
import torch

from diptych.evaluation.accuracy import details
from diptych.report.gallery import Pictures, confusions, examples, gallery

STYLES = {"flat": 0.5, "outline": 0.25}
CLASSNAMES = ["cow face", "owl", "grapes", "rocket", "violin", "pizza"]


def pictures(name: str, n: int = 12, seed: int = 0) -> Pictures:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(CLASSNAMES)
    return Pictures(
        name=name,
        keys=[f"{name}/{i:04x}" for i in range(n)],
        labels=labels,
        images=torch.randint(0, 256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8),
        features=torch.eye(len(CLASSNAMES))[labels] + 0.5 * torch.rand(n, 6, generator=generator),
        classnames=CLASSNAMES,
        classifier=torch.eye(len(CLASSNAMES)),
    )


ENDS = [0.4, 0.6]
SHARES = {"supervised": 0.55, "visual_ngrams": None, "zeroshot": 0.5, "linear_probe": 0.625}
INTERVALS = {name: ENDS if share else None for name, share in SHARES.items()}
COMPARED_ROW = {
    **SHARES, "n": 12, "difference": -0.05, "interval": ENDS, "intervals": {**INTERVALS, "difference": [-0.1, 0.02]},
}  # fmt: skip
ROBUST = COMPARED_ROW | {
    "not_computed": {"visual_ngrams": "task.ngrams= names no run"},
    "effective_robustness": 0.015,
}
WAY = {"top1": 0.5, "gain": 0.25, "interval": [0.2, 0.3]}
POINT = {"top1": 0.75, "interval": [0.7, 0.8]}
COMPARED = {
    "robustness": {"noto": ROBUST | {"role": "validation"}, "flat": ROBUST | {"role": "shift"}},
    "robustness_mean": COMPARED_ROW,
    "robustness_how": {"usual": "noto", "line": "slope 1", "linear_probe": {"pictures": 30, "c": 3.16}},
    "probe": {
        "flat": {"zeroshot": 0.5, "knn": 0.25, "linear_probe": 0.875, "n": 12, "interval": ENDS},
        "novel": {"not_computed": "other classes"},
    },
    "probe_how": {"pictures": 30, "c": 3.16, "chosen_on": "a fifth", "k": 20, "converged": True, "empty_classes": []},
    "fewshot": {
        "draws": 5,
        "sets": {
            "flat": {
                "zeroshot": 0.5, "n": 12, "shots_from": "train", "curves": {"ridge": {"1": POINT, "4": POINT}},
                "not_computed": {"16": "0 of 6 classes have 16 pictures in train"},
            }
        },
    },
    "quality": {
        name: {"alignment": 0.5, "uniformity": -3.0, "gap": 0.25, "dimension": 9.5, "purity": None}
        for name in ("flat", "novel")
    },
    "duplicates": {
        "flat": {
            "exact": 0, "hash": 2, "embedding": 3, "left_out": 2, "top1": 0.5, "top1_without": 0.4, "bits": 4,
            "cosine": 0.98, "pairs": [{"test": "flat/0", "train": "noto/7", "image": None, "other": None}],
        },
        "novel": {"not_computed": "nothing to compare with"},
    },
    "prompts": {
        "tuned_on": "noto",
        "search": {"candidates": 9, "chosen": ["an icon of a {}.", "{}"], "taken": 1, "accuracy": [0.5, 0.5]},
        "synonyms": {"rule": "the name alone", "classes": 3, "of": 6},
        "context": {"start": "a photo of a", "losses": [2.0, 1.5]},
        "sets": {
            "flat": {
                "n": 12, "tuned_here": False, "plain": {"top1": 0.25}, "own_templates": WAY, "searched": WAY,
                "synonyms": None, "learned_context": WAY,
            }
        },
    },
}  # fmt: skip


def _behind(shown: Pictures) -> dict:
    return details(shown.features, shown.classifier, shown.labels, 10.0)


def line(step: int) -> dict[str, float]:
    train = {"loss": 5 / step, "logit_scale": 14.3, "lr": 1e-3, "pairs_per_second": 900.0, "data_wait": 0.02}
    logged = {f"train/{key}": value for key, value in train.items()}
    return {"step": step} | logged | ({"val/zeroshot/noto/top1": step / 100} if step % 10 == 0 else {})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """`flat` and `outline` are unseen styles, mean top-1 37.5 %, chance 1 in 6."""
    run = tmp_path / "run"
    run.mkdir()
    sets = {
        name: {"top1": top1, "top5": 0.9, "n": 12, "classes": 6, "chance": 1 / 6, "role": "shift", "note": ""}
        for name, top1 in STYLES.items()
    }
    sets["noto"] = sets["flat"] | {"top1": 0.75, "role": "validation"}
    sets["mono"] = sets["flat"] | {"top1": 0.625, "role": "redrawn", "note": "redrawn from one"}
    sets["novel"] = sets["flat"] | {"top1": 0.2, "role": "unseen"}
    shares = {"R@1": 0.125, "R@5": 0.5, "R@10": 1.0}
    shown = [pictures(name, seed=seed) for seed, name in enumerate(STYLES)]
    texts = [f"a drawing of a {name}." for name in CLASSNAMES[:2]]
    parts = {
        "samples.json": {"read": 4096, "skipped": {}},
        "metrics.json": {
            "zeroshot": {"top1": 0.375, "top5": 0.9, "n": 24, "sets": sets},
            "retrieval": {
                "flat": {"image_to_text": shares, "text_to_image": shares, "n": 12, "captions": 48},
                "outline": {"not_computed": "no captions"},
            },
            **COMPARED,
            "training": {"steps": 40, "seconds": 75, "pairs": 4096, "augmentation": "square crop and flip."},
        },
        "details.json": {each.name: confusions(each, _behind(each)) for each in shown},
        "examples.json": examples(shown, scale=10.0, per_set=4),
        "profile.json": {
            "steps": 20,
            "after": 10,
            "seconds": 0.2,
            "parts": {"image tower": 0.15, "loss": 0.01, "optimiser": 0.0},
            "operations": [{"name": "aten::mm", "share": 0.4, "calls": 12.0}],
            "communication": 0.004,
        },
        "gallery.json": gallery(shown, texts, CLASSNAMES[:2], torch.eye(6)[:2], k=4),
    }
    for name, content in parts.items():
        (run / name).write_text(json.dumps(content))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line(step)) + "\n" for step in range(1, 41)))
    (run / "config.yaml").write_text("name: a demo\nseed: 7\n")
    (run / "environment.txt").write_text("torch 2.13.0\n")
    return run
