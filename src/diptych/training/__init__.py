"""Training: the LightningModule, optimisers, callbacks and loggers; `build_step` for your own training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.training.step import build_step as build_step

__all__ = ["build_step"]


def __getattr__(name: str) -> Any:
    """Imported on first use, so that importing a callback doesn't import the towers."""
    if name == "build_step":
        from diptych.training.step import build_step

        return build_step
    raise AttributeError(f"module 'diptych.training' has no attribute {name!r}")
