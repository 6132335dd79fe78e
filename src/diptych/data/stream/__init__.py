"""The stream of pairs: which sample is in which batch, and how it is read. Ranks and workers change no batch."""
