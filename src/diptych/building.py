"""Build a model from what a checkpoint says of itself: data from elsewhere, so only our towers may be built.

Our own configs go through Hydra's `instantiate`; a checkpoint's does not, since a `_target_` there could name
any function on the machine.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from diptych.errors import UserError

OURS = re.compile(r"diptych\.towers\.[a-z0-9_]+\.[A-Za-z]\w*")


def _openai_tokenizer(context_length: int = 77) -> Callable[..., Any]:
    """What a tower of fixed phrases reads them with; a vocabulary, which may name any file, is not taken."""
    from diptych.data.tokenizer import Tokenizer

    return Tokenizer(context_length)


ALLOWED: dict[str, Callable[..., Any]] = {
    "torch.nn.GELU": nn.GELU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "diptych.data.tokenizer.Tokenizer": _openai_tokenizer,
}


def build(config: Any) -> Any:
    """Instantiate nested `_target_` mappings, with `_partial_`, of the towers only.

    Raises UserError for any other target, naming it, and for arguments that a tower does not take.
    """
    if isinstance(config, list | tuple):
        return [build(entry) for entry in config]
    if not isinstance(config, Mapping):
        return config
    arguments = {str(key): build(value) for key, value in config.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in config:
        return arguments
    target = config["_target_"]
    made = _class(target)
    if config.get("_partial_") is True:
        return functools.partial(made, **arguments)
    try:
        return made(**arguments)
    except UserError:
        raise
    except Exception as error:  # whatever values from elsewhere bring a constructor to raise
        raise UserError(f"The checkpoint's config can't be built by this version: {target}: {error}.") from error


def _class(target: Any) -> Callable[..., Any]:
    """A tower, or a part of one, that is defined in the module which the target names: what a module imports
    can be reached through it too, and is refused."""
    if isinstance(target, str) and target in ALLOWED:
        return ALLOWED[target]
    found = None
    if isinstance(target, str) and OURS.fullmatch(target):
        module, _, name = target.rpartition(".")
        try:
            found = vars(importlib.import_module(module)).get(name)
        except ImportError as error:
            raise UserError(f"The checkpoint's config can't be built by this version: {target}: {error}.") from error
        if isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module:
            return found
    named = target if isinstance(target, str) else type(target).__name__
    raise UserError(f"The checkpoint's config wants to build {named!r}, which is no tower of ours: refused.")
