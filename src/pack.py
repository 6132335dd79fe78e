"""Pack: `python src/pack.py source=emoji out=DIR`."""

from diptych.run import main, pack

if __name__ == "__main__":
    main("pack", pack)
