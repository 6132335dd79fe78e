"""The mathematics of evaluations: arrays in, numbers out."""
