"""Training: the LightningModule, optimisers, callbacks and loggers; `build_step` for your own training loop."""

from diptych.training.step import build_step

__all__ = ["build_step"]
