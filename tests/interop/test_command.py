"""`python src/convert.py` as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from interop_files import write_openai, write_run

import diptych
from diptych.data.text.tokenizer import Tokenizer

Cli = Callable[..., "object"]


def test_convert(cli: Cli, folder: Path, tmp_path: Path) -> None:
    run = write_run(folder)
    ended = cli("convert", f"checkpoint={run}", "format=open_clip", f"out={tmp_path / 'oc'}")
    assert (ended.code, ended.out, ended.err) == (0, f"converted: {tmp_path / 'oc'}\n", "")
    assert {file.name for file in (tmp_path / "oc").iterdir()} == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }
    ended = cli("convert", f"checkpoint={tmp_path / 'oc'}", "format=huggingface", f"out={tmp_path / 'hf'}")
    assert {file.name for file in (tmp_path / "hf").iterdir()} == {
        "config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.json",
    }
    ended = cli("convert", f"checkpoint={tmp_path / 'hf'}", "format=openai", f"out={tmp_path / 'x.pt'}")
    assert ended.code == 0, ended.err
    left, right = (diptych.load(path).model.state_dict() for path in (run, tmp_path / "x.pt"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_an_exported_model_is_evaluated(cli: Cli, folder: Path, class_folder: Path, tmp_path: Path) -> None:
    file = write_openai(folder)
    ended = cli(
        "evaluate", f"checkpoint={file}", "task=zeroshot", "data=folder", f"data.path={class_folder}",
        f"out={tmp_path / 'out'}",
    )  # fmt: skip
    assert ended.code == 0 and "top-1" in ended.out, ended.err


def test_an_image_size_is_said_on_the_terminal(cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = cli("convert", f"checkpoint={write_run(folder)}", "format=diptych", f"out={out}", "image_size=32")
    assert ended.code == 0
    assert "image.positional_embedding resampled (bicubic) from 17 to 65 positions" in ended.out + ended.err
    assert diptych.load(out).model.image_size == 32


def test_every_mistake_is_one_sentence(cli: Cli, folder: Path, tmp_path: Path) -> None:
    run = write_run(folder)
    for arguments, sentence in (
        ((), "diptych: checkpoint= is missing: type checkpoint=RUN_DIR or a checkpoint file.\n"),
        ((f"checkpoint={run}",), "diptych: format= is missing: type format=diptych, openai, open_clip or hugging"),
        ((f"checkpoint={run}", "format=openai"), "diptych: out= is missing: type out=a new name.\n"),
        ((f"checkpoint={run}", "format=x", "out=y"), "diptych: format=x is unknown: use one of"),
        (("checkpoint=nowhere", "format=openai", "out=y"), "diptych: checkpoint=nowhere does not exist"),
    ):
        ended = cli("convert", *arguments)
        assert ended.code == 2 and ended.err.startswith(sentence) and ended.err.count("\n") == 1, ended.err


def test_the_vocabulary_is_openai_s(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """Read back by `tokenizers`, as transformers does: the same ids as ours."""
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    from diptych.data.text.bpe import WORDS

    out = tmp_path / "hf"
    cli("convert", f"checkpoint={write_run(folder)}", "format=huggingface", f"out={out}")
    bpe = BPE.from_file(str(out / "vocab.json"), str(out / "merges.txt"), end_of_word_suffix="</w>")
    level = ByteLevel(add_prefix_space=False, use_regex=False)
    text = "a photo of 2 naïve café cats, they're 😀 supercalifragilistic!!"
    pieces = [level.pre_tokenize_str(word)[0][0] for word in WORDS.findall(text)]
    assert [token.id for piece in pieces for token in bpe.tokenize(piece)] == Tokenizer().encode(text)
