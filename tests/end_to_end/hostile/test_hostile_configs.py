"""Law 4: a run's config from elsewhere is read as data, before anything is built or written."""

from __future__ import annotations

import copy
import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hostile_config import SECRET, spoiled
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.commands import stored
from diptych.commands.resolvers import register_resolvers
from diptych.commands.resume import named_places, resumed_config


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    os.environ.setdefault("DIPTYCH_ROOT", str(ROOT))
    os.environ.setdefault("DIPTYCH_STAMP", "now")
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(
            "train", ["model=vit_tiny", "logger=wandb", "name=x", "trainer.devices=1", "trainer.max_steps=2"]
        )


PLACES = [
    "name", "seed", "model.image.activation", "model.image.block", "model.mean", "model.pretrained", "data.evaluate",
    "data.image.size", "data.image.crop", "data.files.cache", "data.augment", "data.tokenizer", "data.shards",
    "data.labelled", "callbacks.zeroshot.every", "callbacks.extra", "schedule.warmup", "schedule", "optim.lr",
    "optim", "logger.project", "logger.config", "trainer.strategy", "trainer.timeout", "trainer.extra", "loss.tile",
    "loss", "finetune.image", "run_dir", "resume", "hydra", "recipe", "samples",
]  # fmt: skip

CALL = "{_target_: sprung.call}"

SPELLINGS: dict[str, Any] = {
    "plain": {"_target_": "sprung.call"},
    "in a list": [[{"a": {"_target_": "sprung.call"}}]],
    "partial": {"_target_": "sprung.call", "_partial_": True},
    "not recursive": {
        "_target_": "diptych.loss.ContrastiveLoss",
        "_recursive_": False,
        "x": {"_target_": "sprung.call"},
    },
    "among arguments": {"_target_": "torch.nn.GELU", "_args_": [{"_target_": "sprung.call"}]},
    "a shell": {"_target_": "os.system", "command": "true"},
    "by another name": {"_target_": "logging.os.system", "command": "true"},
    "by a module of ours": {"_target_": "diptych.data.io.files.subprocess.Popen", "args": "true"},
    "a pipe": {"_target_": "diptych.data.io.files.Pipe", "path": "pipe:true", "start": 0, "stop": None},
    "hydra's own": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "sprung.call"}},
    "created": f"${{oc.create:{CALL}}}",
    "escaped": f"\\${{oc.create:{CALL}}}",
    "escaped twice": f"\\\\${{oc.create:{CALL}}}",
    "escaped thrice": f"\\\\\\${{oc.create:{CALL}}}",
    "within a text": f"a ${{oc.create:{CALL}}} b",
    "decoded": "\\${oc.create:${oc.decode:'{_target_: sprung.call}'}}",
    "of the environment": "${oc.env:AWS_SECRET_ACCESS_KEY}",
    "of the environment, escaped": "\\${oc.env:AWS_SECRET_ACCESS_KEY}",
    "of a file": "${lines:SECRET_FILE,x}",
    "of a file, escaped": "\\${lines:SECRET_FILE,x}",
    "of a vocabulary": "${vocab_size:SECRET_FILE}",
    "deprecated": "${oc.deprecated:oc.env:AWS_SECRET_ACCESS_KEY}",
    "of another key": "${name}",
    "a key": {"${oc.env:AWS_SECRET_ACCESS_KEY}": 1},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_hostile_config_is_refused_wherever_it_is_hostile(
    spelling: str, composed: DictConfig, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is built or written: `resume=` and a requeued job read it by this function."""
    base = stored.settled(composed)
    refused = 0
    for number, place in enumerate(PLACES):
        run = trap / f"run{number}"
        run.mkdir()
        hostile = spoiled(base, place, SPELLINGS[spelling], trap / "secret.txt")
        (run / "config.yaml").write_text(plain.dump(hostile))
        try:
            config = resumed_config(composed, run, [])
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"resume={run} ") and "\n" not in str(error) and SECRET not in str(error)
        else:  # a text or a list that is only text, where any may stand
            assert "sprung" not in str(config) and "${" not in str(config)
    assert refused == len(PLACES)
    assert SECRET not in capsys.readouterr().err


def test_a_run_goes_on_by_its_own_config_alone(composed: DictConfig, trap: Path) -> None:
    """What is harmless is taken as it was written: the refusals above are of what was put into this very config."""
    base = stored.settled(composed)
    (trap / "run").mkdir()
    (trap / "run/config.yaml").write_text(plain.dump(base))
    config = resumed_config(composed, trap / "run", [])
    assert {key: value for key, value in config.items() if key != "allow_targets"} == {
        key: value for key, value in base.items() if key != "allow_targets"
    }


FILES = ("config.yaml", "vocabulary.txt", "metrics.jsonl", "samples.json", "report.html")


@pytest.mark.parametrize("name", FILES)
def test_links_out_of_a_run_are_not_followed(name: str, composed: DictConfig, trap: Path) -> None:
    """What a run reads again and writes to would be the user's own files."""
    run = trap / "run"
    run.mkdir()
    (run / "config.yaml").write_text(plain.dump(stored.settled(composed)))
    before = (trap / "kept").write_text("kept")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(trap / "kept")
    with pytest.raises(UserError, match=f"{name} there is a link to .*outside of the run"):
        resumed_config(composed, run, [])
    assert (trap / "kept").read_text() == "kept" and before


def test_files_that_a_config_names_are_not_read_into_a_run(composed: DictConfig, trap: Path) -> None:
    base = stored.settled(composed)
    secret = str(trap / "secret.txt")
    run = trap / "run"
    run.mkdir()
    named = copy.deepcopy(base)
    for part in (named["model"]["text"], named["data"]["tokenizer"], named["data"]["image"]):
        part["vocabulary"] = secret
    (run / "config.yaml").write_text(plain.dump(named))
    assert secret not in str(resumed_config(composed, run, []))
    for place, value in {
        "data.templates": secret,
        "data.evaluate": {"_target_": "diptych.data.sets.pair_set.labelled_pairs", "shards": "x", "classes": secret},
        "data.image": {"_target_": "diptych.data.text.tokenizer.Tokenizer", "_args_": [77, secret]},
    }.items():
        (run / "config.yaml").write_text(plain.dump(spoiled(base, place, value, trap)))
        with pytest.raises(UserError, match=re.escape(f"resume={run}")):
            resumed_config(composed, run, [])


def test_what_a_config_names_is_said_unless_it_was_typed(composed: DictConfig, trap: Path) -> None:
    config = stored.settled(composed)
    (trap / "photos").mkdir()
    reader = {"_target_": "diptych.data.sets.folders.folder_set", "path": f"{trap}/photos", "name": f"{trap}/photos"}
    config["model"]["image"]["pretrained"] = "weights.pt"
    config["data"] |= {
        "shards": None,
        "sources": {"own": {"shards": ["a/{0..3}.tar", "http://host/b\n.tar"], "weight": 2}},
        "evaluate": ["sets", reader, None],
        "labelled": {"path": str(trap)},  # what only evaluations read
    }
    config["data"]["files"]["cache"] = "kept"
    said = [
        "data.sources=a/{0..3}.tar",
        "data.sources=http://host/b\\n.tar",
        "data.files.cache=kept",
        "data.evaluate=sets",
        f"data.evaluate={trap}/photos",
    ]
    assert sorted(named_places(config, ["resume=x"], begins=False)) == sorted(said)
    assert named_places(config, ["data.sources.own.shards=x", "+data.evaluate=null"], begins=True) == [
        "model.image.pretrained=weights.pt",
        "data.files.cache=kept",
    ]
    config["data"]["evaluate"] = "\0"
    assert "data.evaluate=\\x00" in named_places(config, [], begins=False)
    config["data"]["evaluate"] = {**reader, "path": "\0"}
    assert not [each for each in named_places(config, [], begins=False) if "evaluate" in each]


VERSIONS: dict[str, tuple[Any, str]] = {
    "model": (None, "has no model, which this version needs"),
    "model.image": ("vit", "model.image in its config.yaml is 'vit', where this version takes a section"),
    "model.image._target_": (None, r"has no model\.image\._target_"),
    "model.text._target_": (7, r"model\.text\._target_ in its config\.yaml is 7, where this version takes text"),
    "data": ([1], "data in its config.yaml is a list"),
    "data._target_": ("diptych.data.datamodule.OldData", "would call diptych.data.datamodule.OldData"),
    "data.batch_size": (
        "many",
        "data.batch_size in its config.yaml is 'many', where this version takes a whole number",
    ),
    "data.image._target_": (None, r"data\.image\._target_ in its config\.yaml is missing"),
    "optim": (None, "has no optim"),
    "optim._target_": ("diptych.training.optim.lamb", "would call diptych.training.optim.lamb"),
    "schedule": ("cosine", "schedule in its config.yaml is 'cosine'"),
    "trainer.max_steps": (True, "trainer.max_steps in its config.yaml is True"),
    "trainer.keep": (None, "has no trainer.keep"),
    "callbacks": ([], "callbacks in its config.yaml is a list"),
    "callbacks.zeroshot": ({"every": 3}, "callbacks.zeroshot in its config.yaml is a dict"),
    "callbacks.progress": (3, "callbacks.progress in its config.yaml is 3"),
    "logger": ("wandb", "logger in its config.yaml is 'wandb'"),
    "seed": (None, "has no seed"),
    "loss._target_": ("diptych.loss.sigmoid.SigLIP", "would call diptych.loss.sigmoid.SigLIP"),
}


@pytest.mark.parametrize("place", VERSIONS)
def test_a_config_of_another_version_is_one_sentence(place: str, composed: DictConfig, trap: Path) -> None:
    value, sentence = VERSIONS[place]
    (trap / "run").mkdir()
    config = spoiled(stored.settled(composed), place, value, trap)
    (trap / "run/config.yaml").write_text(plain.dump(config))
    with pytest.raises(UserError, match=sentence) as refused:
        resumed_config(composed, trap / "run", [])
    assert "\n" not in str(refused.value) and str(refused.value).startswith(f"resume={trap / 'run'} ")


def test_every_place_and_spelling_is_there() -> None:
    assert len(PLACES) * len(SPELLINGS) > 700
    assert len(list(itertools.chain(VERSIONS, FILES))) > 20
