"""The study: `make study`, or `python src/study.py [STEPS]`.

Three trainings of one image tower on the same pictures for the same steps, then what they are worth under shift, what
prompts add, and what a few labelled pictures add. Each line is a command as one would type it. With STEPS all is in
short: the trainings take as many steps, and the tasks try little.
"""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
TRAINED = {  # folder -> recipe
    "clip": "demo",
    "supervised": "[demo,supervised]",
    "visual_ngrams": "[demo,visual_ngrams]",
}


IN_SHORT = {
    "fewshot": ["task.shots=[1]", "task.draws=2"],
    "robustness": ["task.train=null"],  # features of a few steps have no probe that converges soon
    "prompts": ["task.candidates=[]", "task.most=2", "task.context.steps=5"],
}


def commands(folder: Path, steps: str | None) -> list[list[str]]:
    given = [] if steps is None else [f"trainer.max_steps={steps}"]
    less: dict[str, list[str]] = {} if steps is None else IN_SHORT
    trainings = [
        ["train.py", f"recipe={recipe}", "logger=none", f"run_dir={folder / name}", *given]
        for name, recipe in TRAINED.items()
    ]
    baselines = [f"task.supervised={folder / 'supervised'}", f"task.ngrams={folder / 'visual_ngrams'}"]
    checkpoint = f"checkpoint={folder / 'clip'}"
    return [
        *trainings,
        ["evaluate.py", checkpoint, f"out={folder}", "task=fewshot", *less.get("fewshot", [])],
        ["evaluate.py", checkpoint, f"out={folder}", "task=prompts", *less.get("prompts", [])],
        ["evaluate.py", checkpoint, f"out={folder}", "task=robustness", *baselines, *less.get("robustness", [])],
    ]


if __name__ == "__main__":
    from diptych.base.errors import UserError
    from diptych.commands.claim import numbered_folder

    try:
        out = numbered_folder(Path("runs/study") / time.strftime("%Y-%m-%d_%H-%M-%S"))
    except UserError as error:
        sys.exit(f"diptych: {error}")
    for command in commands(out, sys.argv[1] if sys.argv[1:] else None):
        print("$ python src/" + " ".join(command), flush=True)
        code = subprocess.run([sys.executable, str(HERE / command[0]), *command[1:]]).returncode
        if code:
            with suppress(OSError):
                out.rmdir()  # where the first command was refused
            sys.exit(code)
