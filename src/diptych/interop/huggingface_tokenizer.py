"""OpenAI's vocabulary as the files that transformers' CLIPTokenizer reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from diptych.data.tokenizer import MERGES, SPECIALS, VOCABULARY, Tokenizer
from diptych.errors import UserError

START, END = SPECIALS


def write_tokenizer(folder: Path, vocab_size: int, context_length: int) -> None:
    """vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json.

    Raises UserError for a model of another vocabulary than OpenAI's.
    """
    if vocab_size != Tokenizer.vocab_size:
        raise UserError(
            f"The format huggingface is written with OpenAI's {Tokenizer.vocab_size:,} ids and this model has"
            f" {vocab_size:,}: take format=diptych or open_clip."
        )
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode().splitlines()[1 : MERGES + 1]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    tokens = [
        *symbols,
        *(f"{symbol}</w>" for symbol in symbols),
        *(line.replace(" ", "") for line in lines),
        *SPECIALS,
    ]
    numbers = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    roles = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = roles | {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(roles, indent=2) + "\n")
