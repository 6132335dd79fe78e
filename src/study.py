"""The study: `make study`, or `python src/study.py [STEPS]`.

Three trainings of one image tower on the same pictures for the same steps, then what they are worth under shift, what
prompts add, and what a few labelled pictures add. Each line is a command as one would type it.
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TRAINED = {"clip": "demo", "supervised": "supervised", "visual_ngrams": "visual_ngrams"}  # folder -> recipe


def commands(folder: Path, steps: list[str]) -> list[list[str]]:
    trainings = [
        ["train.py", f"recipe={recipe}", "logger=none", f"run_dir={folder / name}", *steps]
        for name, recipe in TRAINED.items()
    ]
    baselines = [f"task.supervised={folder / 'supervised'}", f"task.ngrams={folder / 'visual_ngrams'}"]
    checkpoint = f"checkpoint={folder / 'clip'}"
    return [
        *trainings,
        ["evaluate.py", checkpoint, f"out={folder}", "task=fewshot"],
        ["evaluate.py", checkpoint, f"out={folder}", "task=prompts"],
        ["evaluate.py", checkpoint, f"out={folder}", "task=robustness", *baselines],
    ]


if __name__ == "__main__":
    out = Path("runs/study") / time.strftime("%Y-%m-%d_%H-%M-%S")
    for command in commands(out, [f"trainer.max_steps={steps}" for steps in sys.argv[1:2]]):
        print("$ python src/" + " ".join(command), flush=True)
        code = subprocess.run([sys.executable, str(HERE / command[0]), *command[1:]]).returncode
        if code:
            sys.exit(code)
