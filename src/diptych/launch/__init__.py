"""Machines, ranks and processes: which ones there are, how they exchange data, and how they end."""
