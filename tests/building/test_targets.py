"""Which `_target_` may be built: by the section that it stands in, and by the object that its name resolves to."""

from __future__ import annotations

import sys

import pytest
import torch

from diptych.base.errors import UserError
from diptych.building.build import build, make
from diptych.building.targets import find, foreign, known, refuse_foreign, trusting

ELSEWHERE = [
    "os.system",
    "posix.system",
    "logging.os.system",
    "builtins.eval",
    "subprocess.Popen",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    "importlib.import_module",
    "torch.load",
    "torch.hub.load",
    "functools.partial",
    "pickle.loads",
    "yaml.unsafe_load",
    "diptych.commands.cli.sys.exit",
    "diptych.commands.fit.make",
    "diptych.building.build.importlib.import_module",
    "diptych.data.io.files.Pipe",
    "diptych.data.io.files.subprocess.Popen",
    "diptych.towers.clip.torch.hub.load",
    "diptych.towers.clip.CLIP.load_state_dict",
    "diptych.towers.clip.CLIP.__init__",
    "diptych.data.io.files.Files.read",
    "diptych.data.datamodule.UserError",
    "diptych.data.sets.pair_set.labelled_pairs",  # known, but not for what a training builds
]


@pytest.mark.parametrize("section", sorted(known()))
def test_no_section_builds_what_its_configs_do_not_name(section: str) -> None:
    assert known()[section]
    found = [name for name in ELSEWHERE if find(name, section) is not None and section != "unbuilt"]
    assert found == []


def test_sections_build_their_own_alone() -> None:
    assert find("diptych.towers.vit.VisionTransformer", "model.image") is not None
    assert find("diptych.towers.vit.VisionTransformer", "data.image") is None
    assert find("diptych.data.io.files.Files", "data.files") is not None
    assert find("diptych.data.io.files.Files", "callbacks.extra") is None
    assert find("diptych.training.optim.adamw", "hydra") is None


def test_another_name_of_the_same_class_is_the_same_class() -> None:
    """By identity: what an earlier version called otherwise, where its module is loaded; nothing is imported."""
    assert find("torch.nn.modules.activation.GELU", "model.image.activation") is torch.nn.GELU
    assert find("diptych.loss.contrastive.ContrastiveLoss", "loss") is find("diptych.loss.ContrastiveLoss", "loss")
    assert "antigravity" not in sys.modules
    assert find("antigravity.webbrowser.open", "loss") is None
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name", [None, 7, "", ".", "os", "os.", ".system", "os..system", "os.system\n", ["os.system"]]
)
def test_what_is_no_name_is_nothing(name: object) -> None:
    with trusting(["", ".", "os", "os."]):
        assert find(name, "model") is None


def test_a_prefix_trusts_what_is_defined_below_it_not_what_it_imports() -> None:
    with trusting(["own_towers."]):
        assert find("own_towers.Image", "model.image") is not None
        assert find("own_towers.os.system", "model.image") is None
        assert find("own_towers.nn.Linear", "model.image") is None
        assert find("own_towers.sys.exit", "model.image") is None
        assert find("os.system", "model.image") is None
    assert find("own_towers.Image", "model.image") is None
    with trusting(["own_towers.Image"]):
        assert find("own_towers.Image", "model.image") is not None
        assert find("own_towers.called", "model.image") is None
    with trusting(["own_towers.Imag"]), pytest.raises(UserError, match="own_towers has no Imag"):
        find("own_towers.Imag", "model.image")


def test_what_is_refused_is_named_before_anything_is_built() -> None:
    config = {"model": {"_target_": "own_towers.called"}, "callbacks": {"x": [{"a": {"_target_": "os.system"}}]}}
    with pytest.raises(UserError, match=r"R would call own_towers\.called.*allow_targets=\[own_towers\.called,os"):
        refuse_foreign(config, "resume=R")
    assert foreign(config) == ["os.system", "own_towers.called"]
    with trusting(["own_towers."]), pytest.raises(UserError, match=r"would call os\.system"):
        refuse_foreign(config, "resume=R")
    for wrong in (None, 3, True, {"_target_": "os.system"}):
        with pytest.raises(UserError, match=r"model\._target_ in its config\.yaml"):
            refuse_foreign({"model": {"_target_": wrong}}, "resume=R")
    tokenizer = {"_target_": "diptych.data.text.tokenizer.Tokenizer", "_args_": [77, "/etc/passwd"]}
    with pytest.raises(UserError, match=r"data\.tokenizer in its config\.yaml has _args_"):
        refuse_foreign({"data": {"tokenizer": tokenizer}}, "resume=R")


def test_texts_stay_texts() -> None:
    """Hydra would resolve them, and build what comes out."""
    hostile = "${oc.create:{_target_: own_towers.called}}"
    with trusting(["own_towers."]):
        made = make({"_target_": "own_towers.Image", "_partial_": True, "image_size": hostile}, "model.image")
        assert made.keywords == {"image_size": hostile}
        assert make({"a": [hostile, "\\" + hostile]}, "model") == {"a": [hostile, "\\" + hostile]}


def test_building_as_hydra_does() -> None:
    with trusting(["own_towers.Image", "builtins.dict", "builtins.len"]):
        made = make({"a": [{"_target_": "own_towers.Image", "_args_": [8], "embed_dim": 4}]}, "model")
        assert (made["a"][0].image_size, made["a"][0].embed_dim) == (8, 4)
        inner = {"_target_": "own_towers.Image", "_recursive_": False, "_convert_": "all"}
        raw = make({"_target_": "builtins.dict", "_recursive_": False, "x": inner}, "model")
        assert raw == {"x": inner}
        with pytest.raises(
            UserError, match=r"model\.image\.depth is unknown: own_towers\.Image has no argument depth"
        ):
            make({"_target_": "own_towers.Image", "depth": 3}, "model.image")
    with pytest.raises(UserError, match=r"data\.image\.size is missing, which .*TrainImage needs"):
        make({"_target_": "diptych.data.pixels.image.TrainImage"}, "data.image")
    with pytest.raises(UserError, match=r"data\.files can't be built from these values"):
        make({"_target_": "diptych.data.io.files.Files", "retries": "many"}, "data.files")


def test_a_checkpoint_builds_own_towers_where_they_are_named() -> None:
    tower = {"_target_": "own_towers.Image"}
    with pytest.raises(UserError, match=r"no tower of ours: refused; .*allow_targets=\[own_towers.Image\]"):
        build(tower)
    with trusting(["own_towers."]):
        assert build(tower).embed_dim == 16
        with pytest.raises(UserError, match="which is no tower of ours"):
            build({"_target_": "own_towers.os.system", "command": "true"})
