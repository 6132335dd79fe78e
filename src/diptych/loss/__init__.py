"""Losses: pure functions of features over the pairs of all ranks, and the modules that a config names."""

from diptych.loss.contrastive import ContrastiveLoss, MultiPositiveLoss, contrastive_loss
from diptych.loss.siglip import SigLIPLoss, siglip_loss

__all__ = ["ContrastiveLoss", "MultiPositiveLoss", "SigLIPLoss", "contrastive_loss", "siglip_loss"]
