"""A run with a vocabulary of its own: the tower's size follows, the checkpoint carries it, misfits die at once."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.base.errors import UserError
from diptych.data.text.tokenizer import Tokenizer
from diptych.data.tokenizer import learn, write
from diptych.model.encode import tokenizer_for

IDS = 2500  # a text of more than ten thousand letters, longer than any other that a checkpoint describes itself with
DRAW = random.Random(0)
WORDS = ["".join(DRAW.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(400)]
TEXTS = ["a red square, number 1", "a green square, number 2", "the blue square of the number 3", " ".join(WORDS)] * 2
SMALL = ["model=vit_tiny", "model.image.layers=1", "data=webdataset", "data.workers=0", "data.batch_size=16"]
SMALL += ["logger=none", "trainer=cpu", "trainer.precision=32-true"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    file = tmp_path / "colours.txt.gz"
    write(learn(TEXTS, IDS), file)
    return file


def test_a_run_keeps_and_carries_its_vocabulary(
    cli: Callable[..., Any], shards: Path, class_folder: Path, vocabulary: Path, tmp_path: Path
) -> None:
    given = [*SMALL, f"data.shards={shards}", f"model.text.vocabulary={vocabulary}", "run_dir=run"]
    sets = f"data.evaluate={{_target_:diptych.data.sets.folders.folder_set,path:'{class_folder}'}}"
    ended = cli("train", *given, sets, "trainer.max_steps=3", "callbacks.zeroshot.every=2")
    assert ended.code == 0, ended.err
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("val/zeroshot/classes/top1" in line for line in logged)
    text = Tokenizer(vocabulary=vocabulary).vocabulary.text
    assert len(text) > 10_000
    vocabulary.unlink()  # neither evaluating nor resuming needs it
    (tmp_path / "run/vocabulary.txt").rename(tmp_path / "kept.txt")
    loaded = diptych.load(tmp_path / "run")
    assert loaded.tokenizer.vocabulary.text == text
    assert loaded.model.text.token_embedding.num_embeddings == loaded.tokenizer.vocab_size == IDS
    with torch.inference_mode():
        assert loaded.model.encode_text(loaded.tokenizer("a red square")).shape == (1, 256)
    (tmp_path / "kept.txt").rename(tmp_path / "run/vocabulary.txt")
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    shutil.rmtree(tmp_path / "run")
    assert cli("train", "resume=moved").code == 0


def test_a_vocabulary_that_does_not_fit_is_one_sentence(
    cli: Callable[..., Any], shards: Path, vocabulary: Path, tmp_path: Path
) -> None:
    given = [*SMALL, f"data.shards={shards}", "trainer.max_steps=1"]
    for arguments, said in (
        (["model.text.vocabulary=none.txt"], "none.txt does not exist"),
        (["model.text.vocabulary=" + str(shards)], "vocabulary="),
        ([f"model.text.vocabulary={vocabulary}", "model.text.vocab_size=600"], "vocab_size=600 does not fit"),
        (["model.text.vocab_size=600"], "vocab_size=600 does not fit"),
    ):
        ended = cli("train", *given, *arguments)
        assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1, ended.err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.ckpt"))


def test_a_created_model_has_its_vocabularys_size(vocabulary: Path) -> None:
    model = diptych.create_model("vit_tiny", text__vocabulary=str(vocabulary), image__layers=1)
    assert model.text.token_embedding.num_embeddings == tokenizer_for(model).vocab_size == IDS
    assert diptych.create_model("vit_tiny", image__layers=1).text.vocab_size == 49408
    misfit = diptych.create_model("vit_tiny", text__vocabulary=str(vocabulary), text__vocab_size=70, image__layers=1)
    with pytest.raises(UserError, match=f"has 70 ids and its vocabulary {IDS}"):
        tokenizer_for(misfit)
