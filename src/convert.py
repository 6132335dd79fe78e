"""Convert: `python src/convert.py checkpoint=RUN_DIR format=open_clip out=DIR`."""

from diptych.run import convert, main

if __name__ == "__main__":
    main("convert", convert)
