"""Prompt templates: one per line, with a placeholder for the class name.

The placeholder is `{}`. `{c}`, as in CLIP_benchmark's files, means the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.textfile import read_text, split_lines

PLACEHOLDERS = ("{}", "{c}")
PLAIN = "a photo of a {}."
NAMED = ("run", "simple", "imagenet")  # values that can be given instead of a file or a list
OWN, RUNS, CLIPS = "the set's own", "the run's", "CLIP's"  # where templates come from, in tables


def parse_templates(text: str, name: str = "The template file") -> list[str]:
    """The templates in the text of a template file, with `{}`; blank lines are skipped.
    name: of the file, for messages
    Raises UserError for a line without a placeholder, which would give every class the same prompt, and for a blank
    file."""
    numbered = [(number, line) for number, line in enumerate(split_lines(text), 1) if line]
    if not numbered:
        raise UserError(f'{name} is empty: it needs a line such as "a photo of a {{}}.".')
    return [canonical(line, f"{name}, line {number}") for number, line in numbered]


def read_templates(path: str | Path) -> list[str]:
    """The templates in a file. Raises UserError for a line that isn't a template."""
    return parse_templates(read_text(path), str(path))


def canonical(template: str, place: str = "") -> str:
    """`template` with `{}` for the class name. place: where the template is, for the message
    Raises UserError for a template without a placeholder."""
    if not any(placeholder in template for placeholder in PLACEHOLDERS):
        where = f"{place}: the" if place else "The"
        raise UserError(f"{where} template {template!r} has no {{}}: write {{}} where the class name goes.")
    return template.replace("{c}", "{}")


def remembered(describe: Mapping[str, Any]) -> list[str]:
    """The templates that a run was validated with, according to its checkpoint; none if they are invalid."""
    told = describe.get("templates")
    known = isinstance(told, list) and all(
        isinstance(each, str) and any(place in each for place in PLACEHOLDERS) for each in told
    )
    return [canonical(each) for each in told] if known and told else []
