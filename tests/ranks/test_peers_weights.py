"""Weights of every peer train under every loss on two ranks, SigLIP's logit bias included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gloo import on_ranks
from interop_files import VIT, model_of, write_huggingface, write_open_clip, write_openai, write_run
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from diptych.interop.formats import convert
from diptych.loss import ContrastiveLoss, MultiPositiveLoss, SigLIPLoss
from diptych.model.pretrained import start_from

LOSSES = {"clip": ContrastiveLoss, "siglip": SigLIPLoss, "multi_positive": MultiPositiveLoss}


class Whole(nn.Module):
    def __init__(self, path: Path, loss: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model_of(VIT, seed=7).train(), loss
        start_from(self.model, path, None, loss)

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        groups = (torch.arange(len(images)),) if isinstance(self.loss, MultiPositiveLoss) else ()
        return self.loss(*self.model(images, tokens), *groups)


def train(rank: int, world: int, paths: dict[str, str]) -> dict[str, dict[str, float]]:
    """Two steps for each file and loss: DDP raises in the second where a parameter had no gradient in the first."""
    found: dict[str, dict[str, float]] = {}
    for name, path in paths.items():
        for title, kind in LOSSES.items():
            torch.manual_seed(rank)
            whole = DistributedDataParallel(Whole(Path(path), kind()))
            for _ in range(2):
                loss = whole(torch.randn(2, 3, 16, 16), torch.randint(1, 49000, (2, 20)))
                loss.backward()
            found.setdefault(name, {})[title] = float(loss)
            if title == "siglip" and "bias" in name:
                found[name]["bias"] = float(whole.module.loss.logit_bias)
    return found


@pytest.mark.slow
def test_every_peer_s_weights_train_under_every_loss_on_two_ranks(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("openai", "open_clip", "huggingface", "run with bias", "source")}
    for folder in folders.values():
        folder.mkdir()
    state = {f"model.{name}": value for name, value in model_of(VIT).state_dict().items()}
    write_run(folders["source"], state_dict=state | {"loss.logit_bias": torch.tensor(-9.5)})
    write_run(folders["run with bias"], state_dict=state | {"loss.logit_bias": torch.tensor(-9.5)})
    paths = {
        "openai": write_openai(folders["openai"]),
        "open_clip": write_open_clip(folders["open_clip"]),
        "open_clip with bias": convert(folders["source"], "open_clip", tmp_path / "biased"),
        "huggingface": write_huggingface(folders["huggingface"]),
        "run with bias": folders["run with bias"],
    }
    for found in on_ranks(2, train, {name: str(path) for name, path in paths.items()}):
        assert found.keys() == paths.keys()
        for name, losses in found.items():
            assert {*LOSSES} <= losses.keys() and all(torch.tensor(list(losses.values())).isfinite())
            assert losses.get("bias", -9.5) == -9.5, name
        assert sum("bias" in losses for losses in found.values()) == 2
