"""Build a model from what a checkpoint says of itself: data from elsewhere, so only our towers may be built.

Our own configs go through Hydra's `instantiate`; a checkpoint's does not, since a `_target_` there could name
any function on the machine.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from diptych.errors import UserError

ALLOWED_MODULES = ("diptych.towers.",)
ALLOWED = frozenset({"torch.nn.GELU", "torch.nn.modules.activation.GELU"})


def build(config: Any) -> Any:
    """Instantiate nested `_target_` mappings, with `_partial_`, of the towers only.

    Raises UserError for any other target, naming it.
    """
    if isinstance(config, list | tuple):
        return [build(entry) for entry in config]
    if not isinstance(config, Mapping):
        return config
    arguments = {str(key): build(value) for key, value in config.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in config:
        return arguments
    target = config["_target_"]
    if not isinstance(target, str) or not (target.startswith(ALLOWED_MODULES) or target in ALLOWED):
        raise UserError(f"The checkpoint's config wants to build {target!r}, which is no tower of ours: refused.")
    module, _, name = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
        return functools.partial(made, **arguments) if config.get("_partial_") else made(**arguments)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"The checkpoint's config can't be built by this version: {target}: {error}.") from error
