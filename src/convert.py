"""Convert: `python src/convert.py checkpoint=RUN_DIR format=open_clip out=DIR`."""

from diptych.commands.start import start

if __name__ == "__main__":
    start("convert")
