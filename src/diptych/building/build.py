"""Check and build the `_target_` parts of a config: nested mappings of plain data become objects.

`build` and `make` work like Hydra's `instantiate`, with two differences. They only call what `targets` allows: the
object that was checked is the object that is called. And they resolve no interpolation: text stays text.

`check_arguments` compares a part with the signature of its `_target_` before anything is built: names, types and
ranges. The range is in the annotation: `lr: Positive`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diptych.base.errors import NotTaken, UserError
from diptych.base.terminal import to_type
from diptych.building import targets

OURS = re.compile(r"diptych\.towers\.[a-z0-9_]+\.[A-Za-z]\w*")
RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
Find = Callable[[Any, str], Callable[..., Any]]


def make(config: Any, place: str) -> Any:
    """Build a part of a run's config. place: its key, such as `data.evaluate`; it decides which targets are allowed.

    Raises UserError for a target that is not allowed, for arguments that the target does not have, and for values
    that one of our classes refuses.
    """
    return _built(config, place, _of_run)


def build(config: Any) -> Any:
    """Build the model that a checkpoint describes: our towers, and what the command line trusts.

    Raises UserError for any other target, and for arguments that a tower does not have.
    """
    return _built(config, "", _of_checkpoint)


def _built(node: Any, place: str, find: Find) -> Any:
    if isinstance(node, list | tuple):
        return [_built(entry, f"{place}.{number}", find) for number, entry in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {str(key): _built(value, f"{place}.{key}", find) for key, value in node.items()}
    target = node["_target_"]
    made = find(target, place)
    given = {str(key): value for key, value in node.items() if key not in RESERVED}
    args = list(node.get("_args_") or ())
    if node.get("_recursive_", True) is not False:
        given = {key: _built(value, _key(place, key), find) for key, value in given.items()}
        args = _built(args, f"{place}._args_", find)
    partial = node.get("_partial_") is True
    if wrong := _wrong_arguments(made, target, len(args), given, place, partial):
        raise wrong if find is _of_run else UserError(_cant("", target, getattr(wrong, "what", str(wrong))))
    if partial:
        return functools.partial(made, *args, **given)
    try:
        return made(*args, **given)
    except UserError:
        raise
    except Exception as error:  # a config's values can make a constructor raise anything
        if find is _of_run and not str(getattr(made, "__module__", "")).startswith("diptych."):
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(_cant(place if find is _of_run else "", target, why)) from error


def _key(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _cant(place: str, target: str, why: str) -> str:
    if not place:
        return f"The checkpoint's config can't be built by this version: {target}: {why.rstrip('.')}."
    return f"{place} can't be built from these values: {target}: {why.rstrip('.')}."


def _of_run(target: Any, place: str) -> Callable[..., Any]:
    found = targets.find(target, place)
    if found is None:
        raise UserError(f"{place} would call {target!r}, which no config of this version names there: refused.")
    return found


def _openai_tokenizer(context_length: int = 77) -> Callable[..., Any]:
    """The tokenizer of a tower of fixed phrases. It takes no vocabulary, which could name any file."""
    from diptych.data.text.tokenizer import Tokenizer

    return Tokenizer(context_length)


def _gelu(**arguments: Any) -> Any:
    from torch import nn

    return nn.GELU(**arguments)


ALLOWED: dict[str, Callable[..., Any]] = {  # in a checkpoint, beside our towers
    "torch.nn.GELU": _gelu,
    "torch.nn.modules.activation.GELU": _gelu,
    "diptych.data.text.tokenizer.Tokenizer": _openai_tokenizer,
}


def _of_checkpoint(target: Any, place: str) -> Callable[..., Any]:
    """A tower, or a part of one, that the named module defines itself. What the module only imports is refused."""
    from torch import nn

    if isinstance(target, str) and target in ALLOWED:
        return ALLOWED[target]
    if isinstance(target, str) and OURS.fullmatch(target):
        module, _, name = target.rpartition(".")
        try:
            found = vars(importlib.import_module(module)).get(name)
        except ImportError as error:
            raise UserError(_cant("", target, str(error))) from error
        if isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module:
            return found
    elif (own := targets.trusted(target)) is not None:
        return own
    named = target if isinstance(target, str) else type(target).__name__
    hint = ""
    if isinstance(target, str) and targets.NAME.fullmatch(target):
        hint = f"; if it is a class of your own, and you trust its file, add {to_type('allow_targets', [target])}"
    raise UserError(f"The checkpoint's config would build {named!r}, which is no tower of ours: refused{hint}.")


def check_arguments(key: str, part: Any) -> None:
    """Check `part`, and every part in it, against the signature of its `_target_`. key: where `part` is in the config

    Raises UserError, with the key, for an argument that does not exist and for a value of the wrong type or range.
    """
    if isinstance(part, list | tuple):
        for number, each in enumerate(part):
            check_arguments(f"{key}[{number}]", each)
    if not isinstance(part, Mapping):
        return
    if "_target_" in part:
        called = targets.located(str(part["_target_"]))
        given = {str(name): value for name, value in part.items() if not str(name).startswith("_")}
        if wrong := _wrong_arguments(called, str(part["_target_"]), 0, given, key, partial=True):
            raise wrong
        for name, parameter in (_parameters(called) or {}).items():
            if name in given and not _has_parts(given[name]):
                check_value(f"{key}.{name}", given[name], _hint(called, parameter))
    for name, value in part.items():
        check_arguments(f"{key}.{name}", value)


def _parameters(called: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(called).parameters
    except (TypeError, ValueError):  # a function in C doesn't say
        return None


def _wrong_arguments(
    called: Callable[..., Any], target: str, positional: int, given: Mapping[str, Any], place: str, partial: bool
) -> UserError | None:
    """The error for the first argument that `called` does not have, or needs and does not get.

    positional: how many arguments it gets without a name; partial: whether others may follow later
    """
    if (parameters := _parameters(called)) is None:
        return None
    takes = [
        name for name, each in parameters.items() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    ]
    unknown = [name for name in given if name not in takes]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        near = difflib.get_close_matches(unknown[0], takes, n=1, cutoff=0.7)
        key, meant = _key(place, unknown[0]), f" (did you mean {_key(place, near[0])}?)" if near else ""
        return NotTaken(key, f"{key} is unknown: {target} has no argument {unknown[0]}{meant}")
    needed = [n for n in takes[positional:] if parameters[n].default is inspect.Parameter.empty and n not in given]
    if needed and not partial:
        return UserError(f"{_key(place, needed[0])} is missing, which {target} needs: give it.")
    return None


def _has_parts(value: Any) -> bool:
    """Whether a value is a part that will be built, or contains one."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_has_parts, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_parts, value))


def _hint(called: Any, parameter: inspect.Parameter) -> Any:
    """The annotation, evaluated in its own module. Any where there is none, or where it can't be evaluated."""
    hint = parameter.annotation
    if isinstance(hint, str):
        home = inspect.unwrap(called.__init__ if inspect.isclass(called) else called)
        try:
            return eval(hint, dict(vars(sys.modules[home.__module__])))  # text of source code, never of a config
        except Exception:
            return Any
    return Any if hint is parameter.empty else hint


def check_value(key: str, value: Any, hint: Any) -> None:
    """Raises UserError where the value of `key` doesn't fit the annotation `hint`."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True))
        text = json.dumps(value)
    except (PydanticUserError, TypeError):  # an annotation, or a value, that pydantic doesn't know
        return
    try:
        adapter.validate_json(text)  # as JSON a list is also a tuple, and a whole number also a float
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
