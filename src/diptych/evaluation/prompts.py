"""Prompt templates: one a line, with a placeholder where the class name goes.

The placeholder is `{}`; CLIP_benchmark's files write `{c}`, which is read as the same.
"""

from collections.abc import Sequence

from diptych.errors import UserError

PLACEHOLDERS = ("{}", "{c}")


def parse_lines(text: str) -> list[str]:
    """The text of a class-name or template file -> its lines, stripped, empty ones left out."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def parse_templates(text: str) -> list[str]:
    """The text of a template file -> templates with `{}`. Raises UserError for a line without a placeholder
    (it would give every class the same prompt) and for a file without a line."""
    templates = [_canonical(line) for line in parse_lines(text)]
    if not templates:
        raise UserError('The template file is empty: it needs a line such as "a photo of a {}.".')
    return templates


def fill(template: str, name: str) -> str:
    """("a drawing of a {}.", "cow face") -> "a drawing of a cow face.". Other braces, in the template or in
    the name, are left as they are."""
    return name.join(_canonical(template).split("{}"))


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """C names, T templates -> C·T prompts, all of the first class first."""
    return [fill(template, name) for name in names for template in templates]


def _canonical(template: str) -> str:
    if not any(placeholder in template for placeholder in PLACEHOLDERS):
        raise UserError(f"The template {template!r} has no {{}}: write {{}} where the class name goes.")
    return template.replace("{c}", "{}")
