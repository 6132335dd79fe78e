"""Evaluate: `python src/evaluate.py checkpoint=RUN_DIR task=zeroshot`."""

from diptych.commands.start import start

if __name__ == "__main__":
    start("evaluate")
