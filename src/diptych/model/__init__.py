"""A whole model: loading it, encoding with it, starting from other weights, and its cost."""
