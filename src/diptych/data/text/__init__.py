"""Text to tokens: cleaning, byte-level BPE, the tokenizer."""
