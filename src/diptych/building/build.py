"""Objects from nested `_target_` mappings of plain data, as Hydra's `instantiate` makes them, but of what may be
built alone: what is checked is the very object that is called.

Nothing here resolves an interpolation: whatever a text holds stays text. A run's config builds what `targets` says; a
checkpoint, which comes from elsewhere more often, our towers.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.base.terminal import to_type
from diptych.building import targets
from diptych.building.arguments import not_taken

OURS = re.compile(r"diptych\.towers\.[a-z0-9_]+\.[A-Za-z]\w*")
RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
Find = Callable[[Any, str], Callable[..., Any]]


def _openai_tokenizer(context_length: int = 77) -> Callable[..., Any]:
    """What a tower of fixed phrases reads them with; a vocabulary, which may name any file, is not taken."""
    from diptych.data.text.tokenizer import Tokenizer

    return Tokenizer(context_length)


def _gelu(**arguments: Any) -> Any:
    from torch import nn

    return nn.GELU(**arguments)


ALLOWED: dict[str, Callable[..., Any]] = {
    "torch.nn.GELU": _gelu,
    "torch.nn.modules.activation.GELU": _gelu,
    "diptych.data.text.tokenizer.Tokenizer": _openai_tokenizer,
}


def make(config: Any, place: str) -> Any:
    """Build a part of a run's config. place: where it stands, `data.evaluate`, which says what may be built there.

    Raises UserError for a target that may not, for arguments that it doesn't take, and for values that ours can't be
    built from.
    """
    return _built(config, place, _of_run)


def build(config: Any) -> Any:
    """Build what a checkpoint says its model is: towers of ours, and what the command line trusts.

    Raises UserError for any other target, naming it, and for arguments that a tower does not take.
    """
    return _built(config, "", _of_checkpoint)


def _built(node: Any, place: str, find: Find) -> Any:
    if isinstance(node, list | tuple):
        return [_built(entry, f"{place}.{number}", find) for number, entry in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    nested = find if node.get("_recursive_", True) is not False else None
    if "_target_" not in node:
        return {str(key): _built(value, f"{place}.{key}", find) for key, value in node.items()}
    made = find(node["_target_"], place)
    given = {str(key): value for key, value in node.items() if key not in RESERVED}
    args = list(node.get("_args_") or ())
    if nested:
        given = {key: _built(value, f"{place}.{key}" if place else key, nested) for key, value in given.items()}
        args = _built(args, f"{place}._args_", nested)
    partial = node.get("_partial_") is True
    if wrong := _wrong_arguments(made, node["_target_"], args, given, place, partial):
        raise wrong if find is _of_run else UserError(_cant("", node["_target_"], str(wrong)))
    if partial:
        return functools.partial(made, *args, **given)
    try:
        return made(*args, **given)
    except UserError:
        raise
    except Exception as error:  # whatever values of a config bring a constructor to raise
        if find is _of_run and not _is_ours(made):
            raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(_cant(place if find is _of_run else "", node["_target_"], why)) from error


def _is_ours(made: Callable[..., Any]) -> bool:
    return str(getattr(made, "__module__", "")).startswith("diptych.")


def _wrong_arguments(
    made: Callable[..., Any], target: str, args: list[Any], given: dict[str, Any], place: str, partial: bool
) -> UserError | None:
    """The error for what `made` does not take, or needs and is not given."""
    try:
        parameters = inspect.signature(made).parameters
    except (ValueError, TypeError):  # of builtins, which don't say
        return None
    kinds = {parameter.kind for parameter in parameters.values()}
    takes = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [name for name in given if name not in takes]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        # Parts of a group are made from plain mappings, and their keys don't tell where they stand.
        if (ROOT / "conf" / place.partition(".")[0]).is_dir() and place:
            return not_taken(f"{place}.{unknown[0]}", target, takes)
        return UserError(f"{place}.{unknown[0]} is nothing that {target} takes: leave it out.")
    needed = [n for n in takes[len(args) :] if parameters[n].default is inspect.Parameter.empty and n not in given]
    if needed and not partial:
        return UserError(f"{place}.{needed[0]} is missing, which {target} needs: give it.")
    return None


def _cant(place: str, target: str, why: str) -> str:
    if not place:
        return f"The checkpoint's config can't be built by this version: {target}: {why.rstrip('.')}."
    return f"{place} can't be built from what the config says: {target}: {why.rstrip('.')}."


def _of_run(target: Any, place: str) -> Callable[..., Any]:
    found = targets.find(target, place)
    if found is None:
        raise UserError(f"{place} would call {target!r}, which no config of this version names there: refused.")
    return found


def _of_checkpoint(target: Any, place: str) -> Callable[..., Any]:
    """A tower, or a part of one, that is defined in the module which the target names: what a module imports
    can be reached through it too, and is refused."""
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
        hint = f"; for a class of your own, whose file you trust, give {to_type('allow_targets', [target])}"
    raise UserError(f"The checkpoint's config wants to build {named!r}, which is no tower of ours: refused{hint}.")
