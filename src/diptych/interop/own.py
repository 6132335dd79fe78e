"""Our own formats: the checkpoint of a run, and a folder of `model.safetensors` and `config.yaml`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from diptych.base import plain
from diptych.base.errors import UserError
from diptych.base.moved import renamed
from diptych.interop.files import plain_data, plain_state, read_yaml, refuse
from diptych.interop.weights import Weights, take_logit_bias

CONFIG, WEIGHTS = "config.yaml", "model.safetensors"
# Names in the module that trains the model.
PREFIX = "model."
LOGIT_BIAS = "loss.logit_bias"


def from_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> Weights:
    """The weights of a run's checkpoint. Raises UserError for a checkpoint that another program wrote."""
    refuse_instantiator(checkpoint, path)
    describe = checkpoint.get("diptych")
    if not isinstance(describe, Mapping) or not isinstance(describe.get("model"), Mapping):
        raise UserError(f"checkpoint={path} was not written by a run of Diptych: its own description is missing.")
    given = checkpoint.get("state_dict")
    given = {key: value for key, value in given.items() if isinstance(key, str)} if isinstance(given, Mapping) else {}
    state = {key.removeprefix(PREFIX): value for key, value in given.items() if key.startswith(PREFIX)}
    bias = {"logit_bias": given[LOGIT_BIAS]} if LOGIT_BIAS in given else {}
    describe = {**describe, **take_logit_bias(plain_state(bias, path), str(path))}
    step = checkpoint.get("global_step", 0)
    return _weights(describe, plain_state(state, path), path, step if type(step) is int else 0)


def refuse_instantiator(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for a checkpoint with the key `_instantiator`, which Lightning would import and call."""
    for part in (checkpoint, *checkpoint.values()):
        if isinstance(part, Mapping) and "_instantiator" in part:
            named = part["_instantiator"] if isinstance(part["_instantiator"], str) else "something"
            raise refuse(path, f"it names {named!r} to be called when it is loaded (_instantiator)")


def from_state(state: Mapping[str, Tensor], path: Path) -> Weights:
    """The weights of a state dict in our names, with `config.yaml` beside its file, `path`."""
    source = path.parent / CONFIG
    describe = read_yaml(source)
    if not isinstance(describe.get("model"), Mapping):
        raise UserError(f"{source} has no `model:`, the description of the model whose weights are beside it.")
    step = describe.get("step", 0)
    return _weights(describe, dict(state), path, step if type(step) is int else 0)


def _weights(describe: Mapping[str, Any], state: dict[str, Tensor], path: Path, step: int) -> Weights:
    rest = plain_data({key: value for key, value in describe.items() if key != "run"}, path)
    config = renamed(rest.pop("model"))
    rest.pop("step", None)
    if "logit_bias" in rest and not (type(rest["logit_bias"]) is float and math.isfinite(rest["logit_bias"])):
        raise refuse(path, "the logit_bias of its description is not a finite number")
    if not isinstance(rest.get("origin", {}), Mapping):
        del rest["origin"]
    return Weights(config, state, path, rest, step)


def write(weights: Weights, out: Path) -> None:
    """Write a folder that `diptych.load` opens: the weights as they are, and the description of the model."""
    weights.check()
    out.mkdir(parents=True, exist_ok=True)
    describe = {"model": weights.config, **weights.describe, "step": weights.step}
    (out / CONFIG).write_text(plain.dump(describe), "utf-8")
    state = {name: value.contiguous() for name, value in weights.state.items()}
    save_file(state, out / WEIGHTS, metadata={"format": "pt"})
