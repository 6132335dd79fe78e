"""From a config's `_target_` to an object: what may be built, what it takes, and building it."""
