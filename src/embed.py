"""Embed: `python src/embed.py checkpoint=RUN_DIR data=emoji out=DIR`."""

from diptych.run import embed, main

if __name__ == "__main__":
    main("embed", embed)
