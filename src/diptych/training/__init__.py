"""Training: the LightningModule, optimisers, callbacks and loggers."""
