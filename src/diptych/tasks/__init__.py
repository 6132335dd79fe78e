"""One file an evaluation task: what is measured, and its table."""
