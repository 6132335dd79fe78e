"""The nine models beside open_clip and Hugging Face's CLIPModel: same weights, same input, float32.

    make peers && .venv/bin/python tests/peers/table.py [MODEL …]

Each model is made twice, by open_clip in .venv-peers (peer.py, a process of its own) and here by `create_model` with
the peer's weights through `from_open_clip`; what `to_open_clip` gives goes back and is loaded there with strict=True.
A difference is the largest one over the largest magnitude of the peer's output, since float32 keeps seven digits of
whatever size the numbers are; each column is the worst of training and evaluation mode, QuickGELU and GELU.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-peers" / "bin" / "python"
MODELS = ("rn50", "rn101", "rn50x4", "rn50x16", "rn50x64", "vit_b32", "vit_b16", "vit_l14", "vit_l14_336")
TITLES = ("model", "peer", "parameters", "image", "text", "logits", "statistics", "round trip")


class Peer:
    """The process of peer.py: one request at a time, and memory of one model at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [str(PYTHON), str(HERE / "peer.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._answer()

    def ask(self, do: str, folder: Path, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, "folder": str(folder), **request}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"peer.py ended with {self.process.wait()}: see its traceback above.")
        return json.loads(line)


@dataclass
class Row:
    """One model against one peer. differences: by output, the worst case; the round trip is open_clip's alone.

    contrast: the least that activation and mode change at the peer, where they change anything
    """

    model: str
    peer: str
    parameters: int
    peer_parameters: int
    differences: dict[str, float]
    contrast: float
    tensors: int
    same: int
    strict: bool

    def cells(self) -> list[str]:
        found = [f"{self.differences[key]:.1e}" if key in self.differences else "–" for key in TITLES[3:7]]
        trip = f"{self.same} of {self.tensors} equal" if self.tensors else "–"
        return [self.model, self.peer, f"{self.parameters:,}", *found, trip]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.float32
    return float((ours - theirs).abs().max() / theirs.abs().max())


def created(name: str, state: dict[str, Tensor], activation: str) -> Any:
    """`model=NAME` with these weights, shared, not copied."""
    import diptych

    towers = ["text"] if name.startswith("rn") else ["image", "text"]
    key = "__activation___target_"
    overrides = {tower + key: "torch.nn.GELU" for tower in towers} if activation == "gelu" else {}
    with torch.device("meta"):
        model = diptych.create_model(name, **overrides)
    model.load_state_dict(state, strict=True, assign=True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # as at the peer: in training mode, statistics of the last batch
    return model


def outputs(model: Any, written: dict[str, Any], image: Tensor | None) -> dict[str, Tensor]:
    """As the peer has them; a ResNet's image features, which know no GELU, are computed once a mode."""
    image = model.encode_image(written["images"]) if image is None else image
    text = model.encode_text(written["tokens"])
    unit, words = (nn.functional.normalize(each, dim=-1) for each in (image, text))
    return {"image": image, "text": text, "logits": model.logit_scale.exp() * unit @ words.T}


@torch.no_grad()
def compare(name: str, peer: Peer, folder: Path) -> list[Row]:
    """One row for each peer of a model."""
    from diptych.interop import from_open_clip, to_open_clip

    parameters = peer.ask("make", folder, name=name)["parameters"]
    received = torch.load(folder / "state.pt", weights_only=True, mmap=True)
    written = torch.load(folder / "outputs.pt", weights_only=True)
    arrived = from_open_clip(received)
    torch.save(to_open_clip(arrived), folder / "ours.pt")
    answer = peer.ask("accept", folder, name=name)
    state, found = arrived.state_dict(), {}
    for mode in ("eval", "train"):  # in this order: training mode writes statistics
        known: Tensor | None = None
        for activation in ("quickgelu", "gelu"):
            model = created(name, state, activation).train(mode == "train")
            case = found[f"{activation} {mode}"] = outputs(model, written, known)
            known = case["image"] if name.startswith("rn") else None
    count = sum(parameter.numel() for parameter in model.parameters())
    rows = []
    for who in ("open_clip", "transformers"):
        if who not in written:
            continue
        theirs = written[who]
        statistics = theirs.pop("statistics", {})
        worst = {  # NaN where one is, which `max` would pass over
            key: float(np.max([difference(found[case][key], each[key]) for case, each in theirs.items()]))
            for key in ("image", "text", "logits")
        }
        if statistics:
            kept = to_open_clip(model)
            worst["statistics"] = float(np.max([difference(kept[key], value) for key, value in statistics.items()]))
        trip = (answer["keys"], answer["same"], answer["strict"]) if who == "open_clip" else (0, 0, True)
        rows.append(Row(name, f"{who} {peer.versions[who]}", count, parameters, worst, contrast(name, theirs), *trip))
    return rows


def contrast(name: str, cases: dict[str, dict[str, Tensor]]) -> float:
    """How much GELU instead of QuickGELU changes the texts, and training mode the images of a ResNet."""
    found = [difference(cases["gelu eval"]["text"], cases["quickgelu eval"]["text"])]
    if name.startswith("rn"):
        found.append(difference(cases["gelu train"]["image"], cases["gelu eval"]["image"]))
    return min(found)


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [list(TITLES), ["---"] * len(TITLES), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(names: list[str]) -> None:
    if not PYTHON.exists():
        sys.exit("The peers' environment is missing: run `make peers` first.")
    sys.path.insert(0, str(HERE.parents[1] / "src"))
    peer, rows, begin = Peer(), [], time.monotonic()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(name, peer, Path(folder))
        print(f"{name}: {time.monotonic() - begin:.0f} s since the start", file=sys.stderr)
    peer.close()
    peaks = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    print(table(rows))
    print(
        f"\ntorch {torch.__version__} here, {peer.versions['torch']} there; {time.monotonic() - begin:.0f} s on "
        f"{torch.get_num_threads()} thread(s); at most {peaks[0]:.1f} GiB there and {peaks[1]:.1f} GiB here."
    )


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
