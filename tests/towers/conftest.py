from collections.abc import Callable

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diptych.base.files import ROOT
from diptych.commands.resolvers import register_resolvers
from diptych.towers.clip import CLIP


@pytest.fixture
def build() -> Callable[..., CLIP]:
    """Builds a model of conf/model by name with overrides, without memory for weights on `device="meta"`."""

    register_resolvers()

    def build(name: str, *overrides: str, device: str = "cpu") -> CLIP:
        with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base=None):
            config = compose(overrides=[f"+model={name}", *overrides])
        with torch.device(device):
            return instantiate(config.model)

    return build
