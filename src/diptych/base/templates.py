"""Prompt templates: one a line, with a placeholder where the class name goes.

The placeholder is `{}`; CLIP_benchmark's files write `{c}`, which is read as the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.textfile import read_text, split_lines

PLACEHOLDERS = ("{}", "{c}")
PLAIN = "a photo of a {}."
NAMED = ("run", "simple", "imagenet")  # words for templates, in the place of a file or a list of them
OWN, RUNS, CLIPS = "the set's own", "the run's", "CLIP's"  # whose templates are


def parse_templates(text: str, name: str = "The template file") -> list[str]:
    """The text of a template file -> templates with `{}`, blank lines left out. name: of the file, for messages
    Raises UserError for a line without a placeholder (it would give every class the same prompt) and for a file
    without a line."""
    numbered = [(number, line) for number, line in enumerate(split_lines(text), 1) if line]
    if not numbered:
        raise UserError(f'{name} is empty: it needs a line such as "a photo of a {{}}.".')
    return [canonical(line, f"{name}, line {number}") for number, line in numbered]


def read_templates(path: str | Path) -> list[str]:
    """The templates of a file. Raises UserError for one that is none, naming the line."""
    return parse_templates(read_text(path), str(path))


def canonical(template: str, place: str = "") -> str:
    """With `{}` where the class name goes. place: where the template stands, for the message
    Raises UserError for one without a placeholder."""
    if not any(placeholder in template for placeholder in PLACEHOLDERS):
        where = f"{place}: the" if place else "The"
        raise UserError(f"{where} template {template!r} has no {{}}: write {{}} where the class name goes.")
    return template.replace("{c}", "{}")


def remembered(describe: Mapping[str, Any]) -> list[str]:
    """The templates that a checkpoint says its run was validated with; what else it may say there counts as none."""
    told = describe.get("templates")
    known = isinstance(told, list) and all(
        isinstance(each, str) and any(place in each for place in PLACEHOLDERS) for each in told
    )
    return [canonical(each) for each in told] if known and told else []
