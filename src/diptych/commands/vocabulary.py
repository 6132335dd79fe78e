"""How a run's own vocabulary goes with it: a copy in its folder, its text in each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import write

VOCABULARY = "vocabulary.txt"  # in the run's folder, where it is not OpenAI's


def keep_vocabulary(config: dict[str, Any], run_dir: Path) -> None:
    """The run reads a copy of its own, so that it goes on the same whatever becomes of the file."""
    from diptych.data.text import bpe

    if (file := config["model"]["text"].get("vocabulary")) is not None:
        write(run_dir / VOCABULARY, bpe.read(file).text)
        name_vocabulary(config, run_dir)


def check_vocabulary(described: Any, run_dir: Path) -> None:
    """described: what a checkpoint says of its model. Raises UserError where the folder's copy is another vocabulary
    than the one that the checkpoint's ids stand for."""
    from diptych.data.text import bpe

    text = described["text"].get("vocabulary")
    file = run_dir / VOCABULARY
    if text is not None and (not file.is_file() or bpe.read(str(file)).text != text):
        raise UserError(
            f"resume={run_dir} can't go on: {file.name} there is not the vocabulary that the run was trained with, so"
            " ids would stand for other words. Put the file back."
        )


def name_vocabulary(node: Any, run_dir: Path) -> None:
    """Where the run's own copy is, also after its folder was moved, wherever its config names a vocabulary: another
    file's text would go into each checkpoint, whatever it is."""
    if isinstance(node, dict):
        if node.get("vocabulary") is not None:
            node["vocabulary"] = str(run_dir / VOCABULARY)
        node = list(node.values())
    for part in node if isinstance(node, list) else ():
        name_vocabulary(part, run_dir)


def carrying_vocabulary(model: dict[str, Any]) -> dict[str, Any]:
    """A model's config with its vocabulary in place of the file's name: a checkpoint needs no file beside it."""
    from diptych.data.text import bpe

    text = dict(model["text"])
    if text.get("vocabulary") is not None:
        text["vocabulary"] = bpe.read(text["vocabulary"]).text
    return {**model, "text": text}
