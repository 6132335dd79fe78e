"""The peers' evaluation: open_clip's and CLIP_benchmark's numbers of an exported model, in .venv-peers.

    .venv-peers/bin/python tests/peers/evaluation.py FOLDER

FOLDER holds `model/` (our export for open_clip), `classes/` and `captions/` (sets in CLIP_benchmark's layout) and
`pixels.pt` (what our preprocessing makes of their pictures). Prints their numbers from those pixels, and from the
files by their own reader and preprocessing.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openings  # noqa: F401  before whatever imports torchvision

# isort: split
import open_clip
import torch
from clip_benchmark.datasets.builder import build_wds_dataset, get_dataset_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from open_clip import build_zero_shot_classifier

KS = [1, 5, 10]


class Batches:
    """What CLIP_benchmark's metrics want of a loader: batches, and the classes of the data set."""

    def __init__(self, batches: list[Any], classes: list[str]) -> None:
        self.batches, self.dataset = batches, SimpleNamespace(classes=classes)

    def __iter__(self) -> Any:
        return iter(self.batches)


def accuracy(output: Any, target: Any, topk: tuple[int, ...]) -> list[float]:
    """The formula that open_clip's training and CLIP_benchmark share, but for its last step, which numpy 2.4 refuses:
    it makes a float of an array of one."""
    predicted = output.topk(max(topk), 1, True, True)[1].t()
    correct = predicted.eq(target.view(1, -1).expand_as(predicted))
    return [correct[:k].reshape(-1).float().sum().item() / len(target) for k in topk]


zeroshot_classification.accuracy = accuracy


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def from_pixels(model: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    given = torch.load(folder / "pixels.pt", weights_only=True)
    names, templates = (
        lines(folder / "classes/classnames.txt"),
        lines(folder / "classes/zeroshot_classification_templates.txt"),
    )
    pixels, labels = given["pixels"], given["labels"]
    loader = Batches(list(zip(pixels.split(16), labels.split(16), strict=True)), names)
    benchmark = zeroshot_classification.evaluate(model, loader, tokenizer, names, templates, "cpu", amp=False)
    fills = [lambda name, template=template: template.format(c=name) for template in templates]
    classifier = build_zero_shot_classifier(model, tokenizer, names, fills, 10, "cpu")
    with torch.no_grad():
        scores = model.encode_image(pixels, normalize=True) @ classifier
    top1, top5 = accuracy(scores, labels, topk=(1, 5))
    texts = [given["captions"][start : start + 16] for start in range(0, len(pixels), 16)]
    pairs = Batches(list(zip(pixels.split(16), texts, strict=True)), [])
    retrieval = zeroshot_retrieval.evaluate(model, pairs, tokenizer, "cpu", amp=False, recall_k_list=KS)
    return {
        "open_clip": {"top1": top1, "top5": top5},
        "benchmark": benchmark,
        "retrieval": retrieval,
    }


def from_files(model: Any, preprocess: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """By CLIP_benchmark's reader and open_clip's preprocessing."""
    found = {}
    for name in ("classes", "captions"):
        dataset = build_wds_dataset(name, preprocess, data_dir=str(folder / name))
        collate = get_dataset_collate_fn("mscoco_captions") if name == "captions" else None
        loader = torch.utils.data.DataLoader(dataset.batched(16, collation_fn=collate) if collate else
                                             dataset.batched(16), batch_size=None)  # fmt: skip
        if name == "classes":
            batches = Batches(list(loader), dataset.classes)
            found["benchmark"] = zeroshot_classification.evaluate(
                model, batches, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
            )
        else:
            pairs = Batches(list(loader), [])
            found["retrieval"] = zeroshot_retrieval.evaluate(
                model, pairs, tokenizer, "cpu", amp=False, recall_k_list=KS
            )
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder / 'model'}", device="cpu")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / 'model'}")
        answer = {
            "pixels": from_pixels(model.eval(), tokenizer, folder),
            "files": from_files(model, preprocess, tokenizer, folder),
        }
    print(json.dumps(answer))
