"""Losses: pure functions of features, gathered over ranks where there are any."""

from diptych.loss.contrastive import ContrastiveLoss, contrastive_loss

__all__ = ["ContrastiveLoss", "contrastive_loss"]
