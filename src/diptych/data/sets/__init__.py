"""Evaluation sets: pictures with labels or captions, of every layout that people have."""
