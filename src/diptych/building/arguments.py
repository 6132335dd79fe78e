"""A config held to the signatures of what it builds, before anything is built: names, types, ranges.

A part of a config names a class or function by `_target_`; its other keys are that one's arguments. Their annotations
say what a key may be, a range too: `lr: Positive`.
"""

from __future__ import annotations

import difflib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from diptych.base.errors import NotTaken, UserError


def check_arguments(key: str, part: Any) -> None:
    """Refuse what a `_target_` of `part`, or of a part in it, doesn't take. key: where it stands in the config

    Raises UserError, naming the key.
    """
    if isinstance(part, list | tuple):
        for number, each in enumerate(part):
            check_arguments(f"{key}[{number}]", each)
    if not isinstance(part, Mapping):
        return
    if "_target_" in part:
        _check_call(key, part)
    for name, value in part.items():
        check_arguments(f"{key}.{name}", value)


def _check_call(key: str, part: Mapping[str, Any]) -> None:
    from diptych.building.targets import located

    target = part["_target_"]
    called = located(str(target))
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # of a function in C
        return
    takes = signature.parameters
    given = {str(name): value for name, value in part.items() if not str(name).startswith("_")}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for name in given:
            if name not in takes:
                raise not_taken(f"{key}.{name}", str(target), list(takes))
    for name, value in given.items():
        if name in takes and not _built(value):
            _check_value(f"{key}.{name}", value, _hint(called, takes[name]))


def not_taken(key: str, target: str, takes: list[str]) -> NotTaken:
    """For the argument that stands at `key`, which `target` does not take."""
    part, _, name = key.rpartition(".")
    near = difflib.get_close_matches(name, takes, n=1, cutoff=0.7)
    return NotTaken(
        key, f"{key} is nothing that {target} takes{f' (did you mean {part}.{near[0]}?)' if near else ''}"
    )


def _built(value: Any) -> bool:
    """Whether a value is a part, or holds one, that becomes something else."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_built, value.values()))
    return isinstance(value, list | tuple) and any(map(_built, value))


def _hint(called: Any, parameter: inspect.Parameter) -> Any:
    """The annotation, evaluated where it was written; Any where that fails or there is none."""
    hint = parameter.annotation
    if isinstance(hint, str):
        home = inspect.unwrap(called.__init__ if inspect.isclass(called) else called)
        try:
            return eval(hint, dict(vars(sys.modules[home.__module__])))  # our own source's, never a config's text
        except Exception:
            return Any
    return Any if hint is parameter.empty else hint


def _check_value(key: str, value: Any, hint: Any) -> None:
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True))
    except PydanticUserError:  # a class of ours, or what the annotation's module imports for type checkers alone
        return
    except TypeError:
        return
    try:
        text = json.dumps(value)
    except TypeError:
        return
    try:
        adapter.validate_json(text)  # as JSON: a list is a tuple, a whole number a float, a word no number
    except ValidationError as error:
        said = dict.fromkeys(each["msg"].removeprefix("Input should be ") for each in error.errors())
        shown = "null" if value is None else value
        raise UserError(f"{key}={shown} must be {' or '.join(_plain(said))}.") from None


PLAINLY = {
    "a valid integer": "a whole number",
    "a valid array": "a list",
    "a valid ": "a ",
    "an object": "a mapping",
    "Field required": "a list of more values",
    "greater than or equal to": "at least",
    "greater than": "above",
    "less than": "below",
    "None": "null",
}


def _plain(messages: Mapping[str, Any]) -> Iterator[str]:
    for message in messages:
        for words, better in PLAINLY.items():
            message = message.replace(words, better)
        yield message
