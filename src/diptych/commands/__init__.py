"""The commands: the only room with raw configs and Hydra."""
