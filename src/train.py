"""Train: `python src/train.py model=vit_b16 trainer=ddp`."""

from diptych.run import main, train

if __name__ == "__main__":
    main("train", train)
