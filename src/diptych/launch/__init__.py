"""Who is there and how they end: machines, ranks, processes, and what they tell each other."""
