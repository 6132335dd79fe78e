"""Where bytes come from: one reader for every kind of address, with retries and a cache."""
