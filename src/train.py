"""Train: `python src/train.py model=vit_b16 trainer=ddp`."""

from diptych.commands.start import start

if __name__ == "__main__":
    start("train")
