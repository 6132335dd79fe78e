"""Pack: `python src/pack.py source=emoji out=DIR`."""

from diptych.commands.start import start

if __name__ == "__main__":
    start("pack")
