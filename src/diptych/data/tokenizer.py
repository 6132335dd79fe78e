"""`python -m diptych.data.tokenizer train SOURCE… --out FILE`, the command that learns a vocabulary."""

from diptych.packing.learn_vocabulary import main

if __name__ == "__main__":
    main()
