"""A model as a whole: loading, encoding, what it starts from, what it costs."""
