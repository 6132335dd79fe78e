"""A run's report: one HTML page, and its plots."""
