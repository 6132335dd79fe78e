"""Opens torchvision beside a CPU build of torch, for which the package index has no torchvision.

Its compiled operators can't be loaded there, and importing it ends in "operator torchvision::nms does not exist":
it describes two operators that were never declared. Declaring them is enough; the transforms, which are all that
the peers use, are Python and Pillow. Where torchvision opens by itself, nothing is done. Import this first.
"""

from __future__ import annotations

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
DECLARED = torch.library.Library("torchvision", "FRAGMENT")


def declare(operators: tuple[str, ...] = ("nms", "qnms")) -> None:
    """Declare those of the operators that torchvision's own library did not bring."""
    try:
        import torchvision
    except RuntimeError:
        for name in operators:
            DECLARED.define(f"{name}{SCHEMA}")
        import torchvision  # noqa: F401


declare()
