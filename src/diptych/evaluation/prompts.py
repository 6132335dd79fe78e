"""Class names in prompt templates."""

from collections.abc import Sequence

from diptych.base.templates import canonical


def fill(template: str, name: str) -> str:
    """("a drawing of a {}.", "cow face") -> "a drawing of a cow face.". Other braces, in the template or in
    the name, are left as they are."""
    return name.join(canonical(template).split("{}"))


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """C names, T templates -> C·T prompts, all of the first class first."""
    return [fill(template, name) for name in names for template in templates]
