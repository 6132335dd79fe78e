"""A run's report: one HTML page around the sections of the tasks, and its plots."""
