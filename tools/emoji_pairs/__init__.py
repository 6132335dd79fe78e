"""Draws the embedded pairs in data/emoji from npm icon packages. `python src/pack.py source=emoji` runs it."""
