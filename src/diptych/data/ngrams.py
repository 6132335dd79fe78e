"""`python -m diptych.data.ngrams SOURCE… --out FILE`, the command that lists the n-grams of captions."""

from diptych.packing.ngrams import main

if __name__ == "__main__":
    main()
