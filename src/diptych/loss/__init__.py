"""Losses: pure functions of features over the pairs of all ranks, and the components that call them."""

from diptych.loss.contrastive import ContrastiveLoss, contrastive_loss
from diptych.loss.multi_positive import MultiPositiveLoss
from diptych.loss.siglip import SigLIPLoss, siglip_loss

__all__ = ["ContrastiveLoss", "MultiPositiveLoss", "SigLIPLoss", "contrastive_loss", "siglip_loss"]
