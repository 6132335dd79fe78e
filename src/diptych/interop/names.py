"""Parameter names: ours and OpenAI's, which open_clip shares, one to one.

| ours                  | OpenAI's                 |
|-----------------------|--------------------------|
| `image.conv1.weight`  | `visual.conv1.weight`    |
| `text.ln_final.bias`  | `ln_final.bias`          |
| `logit_scale`         | `logit_scale`            |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

# What OpenAI's files hold beside parameters: three whole numbers, as tensors.
BOOKKEEPING = ("input_resolution", "context_length", "vocab_size")
WRAPPERS = ("module.", "_orig_mod.")  # of data parallelism and torch.compile


def to_openai(name: str) -> str:
    """`image.x` -> `visual.x`, `text.x` -> `x`."""
    tower, _, rest = name.partition(".")
    return {"image": f"visual.{rest}", "text": rest}.get(tower, name)


def to_ours(name: str) -> str:
    """`visual.x` -> `image.x`, `x` -> `text.x`; also where the text tower already has its prefix."""
    tower, _, rest = name.partition(".")
    if tower == "visual":
        return f"image.{rest}"
    return name if tower == "text" or name in ("logit_scale", "logit_bias") else f"text.{name}"


def ours_from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in OpenAI's names -> in ours, without wrappers' prefixes and the bookkeeping."""
    return {to_ours(name): value for name, value in unwrap(state).items() if name not in BOOKKEEPING}


def openai_from_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in our names -> in OpenAI's."""
    return {to_openai(name): value for name, value in state.items()}


def unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without the prefix that every name has where a wrapped model was saved."""
    state = dict(state)
    for wrapper in WRAPPERS * 2:
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def blocks(names: Iterable[str], prefix: str) -> int:
    """How many numbered blocks stand below `prefix`: `prefix.0.…`, `prefix.1.…`."""
    start = f"{prefix}."
    return len({name[len(start) :].split(".", 1)[0] for name in names if name.startswith(start)})
