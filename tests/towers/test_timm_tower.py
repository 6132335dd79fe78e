"""The adapter for timm's models: refused in one sentence without timm; for real in the peers' environment.

That environment is another Python with torchvision and timm in it, .venv-peers or what DIPTYCH_PEERS names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from diptych.base.errors import UserError
from diptych.building.build import build
from diptych.towers.timm_tower import TimmTower


def test_without_timm_one_sentence_says_how_to_get_it() -> None:
    if importlib.util.find_spec("timm") is not None:
        pytest.skip("timm is installed here")
    with pytest.raises(UserError, match=r'needs the package timm .*pip install -e "\.\[timm\]"'):
        TimmTower("resnet18", 32, 8)


@pytest.mark.parametrize("name", ["create_model", "_timm", "importlib.import_module", "TimmTower.mro"])
def test_a_checkpoint_reaches_nothing_but_the_tower(name: str) -> None:
    with pytest.raises(UserError, match=r"can't be built|refused|needs the package"):
        build({"_target_": f"diptych.towers.timm_tower.{name}", "model_name": "hf-hub:x/y", "pretrained": True})


@pytest.mark.slow
def test_real_models_of_timm(in_peers: Callable[[str], dict[str, Any]]) -> None:
    found: dict[str, Any] = in_peers("timm_tower.py")
    assert found.pop("from meta") is True
    refusals = found.pop("refused")
    assert len(refusals) == 11 and all("is not in timm's list of models" in text for text in refusals[:9]), refusals
    for text, message in zip(refusals[9:], ("Invalid pretrained tag", "can't be built"), strict=True):
        assert message in text, text
    trained = {"vit": ["blocks", "norm"], "res": ["layer4"], "con": ["head", "stages"]}
    layers = {"vit": 13, "res": 9, "con": 13}  # 12, 8 and 12 blocks, and what stands before them
    for name, result in found.items():
        assert result["layers"] == layers[name[:3]], (name, result["layers"])
        for claim in ("equal", "above", "arrived", "meta", "peer"):
            assert result[claim] is True, (name, claim)
        assert result["trained"] == trained[name[:3]], (name, result["trained"])
        assert f"of timm's {name}" in result["notes"][0]
        assert "another mean of the pixels: type '++model.mean=[" in result["other"]
    assert found["resnet18.a1_in1k"]["command"] == (
        "model=timm model.image.name=resnet18.a1_in1k model.image.image_size=224"
        " 'model.mean=[0.485,0.456,0.406]' 'model.std=[0.229,0.224,0.225]'"
    )
