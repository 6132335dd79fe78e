"""Evaluate: `python src/evaluate.py checkpoint=RUN_DIR task=zeroshot`."""

from diptych.run import evaluate, main

if __name__ == "__main__":
    main("evaluate", evaluate)
