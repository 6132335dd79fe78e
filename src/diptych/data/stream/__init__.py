"""The stream of pairs: which sample stands where, and how it is read. Exact on any number of ranks and workers."""
