"""Training: the LightningModule, optimisers, callbacks and loggers; `build_step` for your own training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.training.step import build_step as build_step

__all__ = ["build_step"]


def __getattr__(name: str) -> Any:
    """Imported where it is used: `finetune` needs neither Lightning nor the towers."""
    if name == "build_step":
        from diptych.training.step import build_step

        return build_step
    raise AttributeError(f"module 'diptych.training' has no attribute {name!r}")
