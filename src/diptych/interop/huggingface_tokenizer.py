"""OpenAI's vocabulary as the files that transformers' CLIPTokenizer reads."""

from __future__ import annotations

import json
from pathlib import Path

from diptych.base.errors import UserError
from diptych.data.text import bpe

START, END = bpe.SPECIALS


def write_tokenizer(folder: Path, vocab_size: int, context_length: int) -> None:
    """vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json.

    Raises UserError for a model of another vocabulary than OpenAI's.
    """
    vocabulary = bpe.openai()
    if vocab_size != vocabulary.size:
        raise UserError(
            f"The format huggingface is written with OpenAI's {vocabulary.size:,} ids and this model has"
            f" {vocab_size:,}: take format=diptych or open_clip."
        )
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    merges = "\n".join([bpe.TITLE, *map(" ".join, vocabulary.merges), ""])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    roles = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = roles | {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(roles, indent=2) + "\n", encoding="utf-8")
