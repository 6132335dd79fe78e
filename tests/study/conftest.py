"""A run folder with every part, small and made from known numbers."""

import json
from pathlib import Path

import pytest
import torch

from diptych.study.gallery import Pictures, examples, gallery

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
            "training": {"steps": 40, "seconds": 75, "pairs": 4096, "augmentation": "square crop and flip."},
        },
        "examples.json": examples(shown, scale=10.0, per_set=4),
        "gallery.json": gallery(shown, texts, CLASSNAMES[:2], torch.eye(6)[:2], k=4),
    }
    for name, content in parts.items():
        (run / name).write_text(json.dumps(content))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line(step)) + "\n" for step in range(1, 41)))
    (run / "config.yaml").write_text("name: a demo\nseed: 7\n")
    (run / "environment.txt").write_text("torch 2.13.0\n")
    return run
