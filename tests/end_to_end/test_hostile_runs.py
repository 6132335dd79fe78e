"""Law 4, whole: run folders and checkpoints from elsewhere, by every command that opens one.

No code of theirs runs, no secret of the user's is read, printed or written; an audit hook watches."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from http_server import serving
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import save_file

from diptych import plain, stored
from diptych.config import register_resolvers
from diptych.errors import UserError
from diptych.interop.writing import convert
from diptych.loading import load
from diptych.paths import ROOT
from diptych.resuming import named_places, resumed_config
from samples import picture, write_shards

Cli = Callable[..., Any]
TINY = (
    "model=vit_tiny", "model.text.width=16", "model.image.width=32", "trainer=cpu", "trainer.precision=32-true",
    "logger=none", "data=webdataset", "data.workers=0", "data.batch_size=16", "trainer.max_steps=2", "data.streams=2",
    "data.validation=0",
)  # fmt: skip
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"

STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect")
watched: list[str] = []
watching: list[str] = []  # paths whose opening is seen


def watch(event: str, arguments: tuple) -> None:
    if not watching:
        return
    if event in (
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "socket.connect",
        "os.fork",
    ):
        watched.append(f"{event} {arguments}")
    elif (event == "open" and str(arguments[0]) in watching) or (
        event == "import" and arguments[0].startswith("sprung")
    ):
        watched.append(f"{event} {arguments[0]}")


sys.addaudithook(watch)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A secret in a file and in the environment, a module that says when it is imported; nothing may touch them."""
    (tmp_path / "secret.txt").write_text(f"{SECRET} x\n")
    (tmp_path / "sprung.py").write_text(f"open({str(tmp_path / 'SPRUNG')!r}, 'w').close()\ndef call(**_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    watched.clear()
    watching.append(str(tmp_path / "secret.txt"))
    (tmp_path / "secret.txt").read_bytes()
    assert watched, "the hook that looks for opened files sees none"
    watched.clear()
    yield tmp_path
    watching.clear()
    assert watched == [] and not (tmp_path / "SPRUNG").exists()


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
    "by a module of ours": {"_target_": "diptych.data.reading.pipe.subprocess.Popen", "args": "true"},
    "a pipe": {"_target_": "diptych.data.reading.pipe.Pipe", "path": "pipe:true", "start": 0, "stop": None},
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


def spoiled(config: Any, place: str, value: Any, secret: Path) -> Any:
    config = copy.deepcopy(config)
    if isinstance(value, str):
        value = value.replace("SECRET_FILE", str(secret))
    node = config
    *parents, last = place.split(".")
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
    node[last] = value
    return config


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
    config = stored.settled(resumed_config(composed, trap / "run", []))
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
        "data.evaluate": {"_target_": "diptych.data.labelled.labelled_pairs", "shards": "x", "classes": secret},
        "data.image": {"_target_": "diptych.data.tokenizer.Tokenizer", "_args_": [77, secret]},
    }.items():
        (run / "config.yaml").write_text(plain.dump(spoiled(base, place, value, trap)))
        with pytest.raises(UserError, match=re.escape(f"resume={run}")):
            resumed_config(composed, run, [])


def test_what_a_config_names_is_said_unless_it_was_typed(composed: DictConfig, trap: Path) -> None:
    config = stored.settled(composed)
    (trap / "photos").mkdir()
    reader = {"_target_": "diptych.data.evalset.folder_set", "path": f"{trap}/photos", "name": f"{trap}/photos"}
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


@pytest.fixture
def trained(cli: Cli, shards: Path, tmp_path: Path) -> Path:
    ended = cli("train", *TINY, f"data.shards={shards}", "data.evaluate=null", f"run_dir={tmp_path / 'trained'}")
    assert ended.code == 0, ended.err
    return tmp_path / "trained"


def files_with(folder: Path, *words: str) -> list[str]:
    found = [file for file in folder.rglob("*") if file.is_file()]
    assert found
    return [str(file) for file in found if any(word.encode() in file.read_bytes() for word in words)]


def test_no_command_runs_what_a_run_brings(cli: Cli, shards: Path, trained: Path, trap: Path) -> None:
    """resume, evaluate, embed and convert of a run whose config and checkpoint both are hostile; an export too."""
    config = plain.read(trained / "config.yaml")
    hostile = {"_target_": "sprung.call"}
    (trained / "config.yaml").write_text(plain.dump(spoiled(config, "model.image.activation", hostile, trap)))
    checkpoint = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    for value in (hostile, "${oc.create:{_target_: sprung.call}}", "\\${oc.env:AWS_SECRET_ACCESS_KEY}"):
        checkpoint["diptych"]["model"]["image"]["activation"] = value
        torch.save(checkpoint, trap / "hostile.ckpt")
        state = {key.removeprefix("model."): tensor.contiguous() for key, tensor in checkpoint["state_dict"].items()}
        (trap / "export").mkdir(exist_ok=True)
        save_file(state, trap / "export/model.safetensors")
        (trap / "export/config.yaml").write_text(plain.dump({"model": checkpoint["diptych"]["model"]}))
        for number, path in enumerate((trap / "hostile.ckpt", trap / "export")):
            with pytest.raises(UserError, match=r"no tower of ours|can't be built"):
                load(path)
            with pytest.raises(UserError, match=r"no tower of ours|can't be built"):
                convert(path, "openai", trap / f"out{number}")
    ended = [cli("train", f"resume={trained}")]
    for command in ("evaluate", "embed"):
        ended.append(cli(command, f"checkpoint={trap / 'hostile.ckpt'}", f"out={trap / command}"))
    ended.append(cli("convert", f"checkpoint={trap / 'export'}", "format=diptych", f"out={trap / 'converted'}"))
    ended.append(
        cli("train", *TINY, f"model.pretrained={trap / 'export'}", "data.shards=x", f"run_dir={trap / 'new'}")
    )
    for each in ended:
        assert each.code == 2 and each.err.count("\n") == 1 and SECRET not in each.err + each.out
        assert re.search(r"can't be built|would call sprung\.call", each.err), each.err
    assert not (trap / "new/checkpoints/last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.alone
def test_ranks_train_by_the_config_that_was_checked(trained: Path, tmp_path: Path) -> None:
    """Whoever changes config.yaml after the check changes nothing: a rank reads it from its launcher."""
    config = plain.read(trained / "config.yaml")
    (trained / "config.yaml").write_text("not: this one")
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    config["trainer"]["max_steps"] = config["data"]["steps"] = 3
    ended = subprocess.run(
        [sys.executable, "-m", "diptych.ranks", str(trained), "resume", str(os.getpid())],
        input=json.dumps(config), env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


def test_credentials_stay_in_memory(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password of an address, from the command line to the end of a resume: never written, never printed."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_shards(tmp_path / "shards", [16, 16])
    words = ("hunter2",)
    arguments = [a for a in TINY if a != "logger=none"]
    with serving() as server:
        for file in (tmp_path / "shards").iterdir():
            server.files[f"/x/{file.name}"] = file.read_bytes()
        given = f"data.shards={server.url('/x/index.json', 'me:hunter2@')}"
        run = tmp_path / "run"
        ended = [cli("train", *arguments, given, "data.evaluate=null", "logger=wandb", f"run_dir={run}")]
        assert ended[0].code == 0, ended[0].err
        assert server.headers[0]["authorization"] == "Basic bWU6aHVudGVyMg=="
        assert "<hidden>@127.0.0.1" in (run / "config.yaml").read_text()
        assert "&lt;hidden&gt;@127.0.0.1" in (run / "report.html").read_text()
        assert list(run.glob("wandb/*/*.wandb"))
        assert files_with(run, *words) == []
        again = cli("train", f"resume={run}")
        assert again.code == 2 and "needs data.shards again, as when the run began" in again.err
        ended += [again, cli("train", f"resume={run}", given)]
        assert ended[-1].code == 0, ended[-1].err
        ended.append(cli("train", *TINY, given.replace("/x/", "/y/"), f"run_dir={tmp_path / 'other'}"))
        assert ended[-1].code == 2 and "/y/index.json does not exist" in ended[-1].err
    assert not any(word in each.out + each.err for each in ended for word in words)
    assert files_with(tmp_path / "run", *words) == []


def test_a_password_of_netrc_goes_to_its_host_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.data.files import Files

    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\nmachine plain.example login me password x\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving() as server:
        server.files["/a"] = b"abc"
        assert Files().read(server.url("/a")) == b"abc"
        assert server.headers[-1]["authorization"] == "Basic bWU6aHVudGVyMg=="
        assert Files().read(server.url("/a", "you:other@")) == b"abc"
        assert server.headers[-1]["authorization"] == "Basic eW91Om90aGVy"
        netrc.write_text("machine elsewhere.example login me password hunter2\n")
        assert Files().read(server.url("/a")) == b"abc" and "authorization" not in server.headers[-1]
        netrc.write_text("machine 127.0.0.1 frobnicate x")
        with pytest.raises(UserError, match="netrc can't be used for 127"):
            Files().read(server.url("/a"))
    from diptych.data.reading.http import _kept

    netrc.write_text("machine plain.example login me password x\n")
    assert _kept("http", "plain.example") == "" and _kept("https", "plain.example") == "me:x"


OWN = (
    "~model.image", "+model.image={_target_: own_towers.Image, image_size: 32, embed_dim: 256, pretrained: null}",
    "data.image.size=32",
)  # fmt: skip


@pytest.mark.slow
def test_an_own_tower_is_trained_evaluated_and_gone_on_with(
    cli: Cli, shards: Path, class_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tiny = [a for a in TINY if not a.startswith("model.image")]
    sets = f"data.evaluate={class_folder}"
    ended = cli("train", *tiny, *OWN, sets, f"data.shards={shards}", f"run_dir={run}")
    assert ended.code == 0, ended.err
    said = ended.out.index("allow_targets=[own_towers.Image]")
    assert said < ended.out.index("step 1/2") and "evaluate.py, embed.py and convert.py" in ended.out
    assert "zero-shot" in ended.out
    commands = {
        "train": [f"resume={run}", "trainer.log_every=1"],
        "evaluate": [
            f"checkpoint={run}",
            "data=folder",
            f"data.path={class_folder}",
            f"out={tmp_path / 'evaluation'}",
        ],
        "embed": [f"checkpoint={run}", "data=folder", f"data.path={class_folder}", f"out={tmp_path / 'embeddings'}"],
        "convert": [f"checkpoint={run}", "format=diptych", f"out={tmp_path / 'export'}"],
    }
    for command, arguments in commands.items():
        refused = cli(command, *arguments)
        assert refused.code == 2 and "allow_targets=[own_towers.Image]" in refused.err, refused.err
        for trust in ("own_towers.Image", "own_towers."):
            shutil.rmtree(tmp_path / "export", ignore_errors=True)
            ended = cli(command, *arguments, f"allow_targets=[{trust}]")
            assert ended.code == 0, ended.err
    for path in (run, tmp_path / "export"):
        with pytest.raises(UserError, match=r"own_towers\.Image"):
            load(path)
        assert type(load(path, allow_targets=["own_towers."]).model.image).__name__ == "Image"


WRONG = {
    "own_towers.NoSize": r"own_towers.NoSize has no image_size: it needs a whole number",
    "own_towers.NotWithoutMemory": r"can't encode \[2, 3, 32, 32\] without memory \(device meta\)",
    "own_towers.Image, gives: 7": r"gives \[2, 7\] for \[2, 3, 32, 32\]: it must give \[2, 256\]",
    "own_towers.Image, depth: 7": r"model.image.depth is nothing that own_towers.Image takes",
    "own_towers.Imaeg": r"own_towers has no Imaeg",
    "own_tower.Image": r"there is no module own_tower",
    "own_towers.Image, image_size: many": r"model\.image\.image_size=many must be a whole number",
}


@pytest.mark.parametrize("tower", WRONG)
def test_what_a_tower_lacks_is_said_before_a_folder_is_made(
    cli: Cli, shards: Path, tmp_path: Path, tower: str
) -> None:
    arguments = [a for a in TINY if not a.startswith("model.image")]
    own = f"{{_target_: {tower}, pretrained: null}}"
    if "NoSize" not in tower:
        own = own.replace("}", ", embed_dim: 256}")
    arguments += ["~model.image", f"+model.image={own}", "model.text.embed_dim=256", "data.image.size=32"]
    ended = cli("train", *arguments, f"data.shards={shards}", "data.evaluate=null", f"run_dir={tmp_path / 'run'}")
    assert ended.code == 2 and ended.err.count("\n") == 1, ended.err
    assert re.search(WRONG[tower], ended.err), ended.err
    assert not (tmp_path / "run").exists()


def test_a_config_that_can_t_be_written_as_data_is_refused(cli: Cli, shards: Path, tmp_path: Path) -> None:
    ended = cli("train", *TINY, f"data.shards={shards}", r"name='\${oc.env:HOME}'", f"run_dir={tmp_path / 'run'}")
    assert ended.code == 2 and "name holds '${oc.env:HOME}': a run's config holds no interpolation" in ended.err
    assert not (tmp_path / "run").exists()


def test_names_from_elsewhere_do_not_steer_the_terminal(cli: Cli, tmp_path: Path, trained: Path) -> None:
    """Of class folders, each of which is refused, and of files, which are counted and named."""
    odd = ("red\x1b[2J", "green\u202e", "blue\x9b1m", "grey\x07")
    for name in odd:
        (tmp_path / "refused" / name).mkdir(parents=True)
        (tmp_path / "refused" / name / "0.png").write_bytes(picture(0))
    for name in ("red", "green"):
        (tmp_path / "taken" / name).mkdir(parents=True)
        for number, end in enumerate((".png", ".jpg", ".sh")):
            (tmp_path / "taken" / name / f"{number}\x1b[1A\u202e\x07{end}").write_bytes(
                picture(0) if number == 0 else b"-"
            )

    def evaluated(data: Path) -> Any:
        return cli("evaluate", f"checkpoint={trained}", "data=folder", f"data.path={data}", f"out={data}-out")

    ended = []
    for name in odd:
        ended.append(evaluated(tmp_path / "refused"))
        assert ended[-1].code == 2 and "whose name is no text: rename it" in ended[-1].err, ended[-1].err
        shutil.rmtree(tmp_path / "refused" / name)
    ended.append(evaluated(tmp_path / "taken"))
    assert ended[-1].code == 0, ended[-1].err
    assert "2 × not a readable image" in ended[-1].out and r"red/2\x1b[1A\u202e\x07.sh" in ended[-1].out, ended[-1]
    for text in (part for each in ended for part in (each.out, each.err)):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_every_place_and_spelling_is_there() -> None:
    assert len(PLACES) * len(SPELLINGS) > 700
    assert len(list(itertools.chain(VERSIONS, WRONG, FILES))) > 25
