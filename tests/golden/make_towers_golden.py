"""Writes towers.json and parameters.json.gz: what open_clip's towers give, and the names and shapes they have.

    make peers && .venv-peers/bin/python tests/golden/make_towers_golden.py

The small towers are open_clip's own classes in float64. Their weights follow a rule (`weights`), as do their inputs,
so that only outputs are stored; test_golden.py applies the rule to ours. Gradients and running statistics are stored
as one number a tensor (`digest`).
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
EMBED, CONTEXT, VOCABULARY = 12, 16, 64
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 32, "heads": 4, "layers": 2}
IMAGE = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16},
    "resnet": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 64},
}
LARGER = 48  # pixels that the ViT's positions are resampled for
TOKENS = [[62, *range(1, 15), 63], [62, 63, *[0] * 14], [62, 9, 40, 7, 63, *[0] * 11]]


def wave(count: int, phase: float) -> Tensor:
    """Numbers in -1 … 1 with no pattern that a tower could have, float64."""
    place = torch.arange(count, dtype=torch.float64)
    return torch.sin(place * place * 0.37 + place * 1.3 + phase)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict, float64, for names and shapes in OpenAI's words. Nothing is at an initial 0 or 1."""
    state = {}
    for phase, (name, shape) in enumerate(sorted(shapes.items())):
        count = int(torch.Size(shape).numel())
        values = wave(count, phase).view(shape)
        if name.endswith("num_batches_tracked"):
            values = torch.zeros(shape, dtype=torch.long)
        elif name.endswith(("running_var", "logit_scale")) or (len(shape) == 1 and name.endswith("weight")):
            values = 1 + 0.4 * values
        elif len(shape) == 1:
            values = 0.2 * values
        elif name.endswith(("positional_embedding", "token_embedding.weight")):
            values = 0.5 * values
        else:
            values = values * 1.5 / (count / shape[0]) ** 0.5
        state[name] = values
    return state


def pictures(side: int, count: int = 3) -> Tensor:
    """Images [count, 3, side, side], float64."""
    return wave(count * 3 * side * side, 0.5).view(count, 3, side, side) * 1.5


def digest(values: Tensor) -> float:
    """One number that any change of any entry changes."""
    return float(values.detach().double().flatten() @ wave(values.numel(), 0.25))


def objective(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """A scalar that every feature has a part in, for gradients."""
    logits = scale * image @ text.T
    return (logits * wave(logits.numel(), 0.75).view_as(logits)).sum() + logits.logsumexp(1).sum()


def case(model: Any, images: Tensor, tokens: Tensor) -> dict[str, Any]:
    """Outputs, and digests of what a backward pass leaves: the gradients and the statistics of batch norm."""
    image, text = model.encode_image(images), model.encode_text(tokens)
    unit, words = (torch.nn.functional.normalize(each, dim=-1) for each in (image, text))
    scale = model.logit_scale.exp()
    model.zero_grad()
    objective(unit, words, scale).backward()
    return {
        "image": image.tolist(),
        "text": text.tolist(),
        "logits": (scale * unit @ words.T).tolist(),
        "gradients": {name: digest(parameter.grad) for name, parameter in model.named_parameters()},
        "statistics": {name: digest(v) for name, v in model.state_dict().items() if ".running_" in name},
    }


def small(open_clip: Any, kind: str, quick: bool, **changes: Any) -> Any:
    model = open_clip.CLIP(EMBED, IMAGE[kind] | changes, TEXT, quick_gelu=quick).double()
    model.load_state_dict(weights({name: tuple(value.shape) for name, value in model.state_dict().items()}))
    return model


def towers(open_clip: Any) -> dict[str, Any]:
    found, tokens = {}, torch.tensor(TOKENS)
    for kind in IMAGE:
        for quick in (True, False):
            for mode in ("eval", "train"):
                model = small(open_clip, kind, quick).train(mode == "train")
                name = f"{kind} {'quickgelu' if quick else 'gelu'} {mode}"
                found[name] = case(model, pictures(IMAGE[kind]["image_size"]), tokens)
    state = small(open_clip, "vit", True).state_dict()
    model = open_clip.CLIP(EMBED, IMAGE["vit"] | {"image_size": LARGER}, TEXT, quick_gelu=True).double()
    open_clip.model.resize_pos_embed(state, model)
    model.load_state_dict(state)
    found["vit larger"] = {"image": model.eval().encode_image(pictures(LARGER)).tolist()}
    return found


def parameters(open_clip: Any, names: dict[str, str]) -> dict[str, Any]:
    found = {}
    for ours, theirs in names.items():
        with torch.device("meta"):
            model = open_clip.CLIP(**open_clip.get_model_config(theirs))
        found[ours] = {name: list(value.shape) for name, value in model.state_dict().items()}
    return found


def main() -> None:
    sys.path.insert(0, str(HERE.parent / "peers"))
    from peer import NAMES, open_clip

    peer = f"open_clip {open_clip.__version__}, torch {torch.__version__}"
    written = {"peer": peer, "cases": towers(open_clip)}
    (HERE / "towers.json").write_text(json.dumps(written, separators=(",", ":")) + "\n")
    listed = json.dumps({"peer": peer, "models": parameters(open_clip, NAMES)}, separators=(",", ":"))
    (HERE / "parameters.json.gz").write_bytes(gzip.compress(listed.encode(), mtime=0))


if __name__ == "__main__":
    main()
