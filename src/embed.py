"""Embed: `python src/embed.py checkpoint=RUN_DIR data=emoji out=DIR`."""

from diptych.commands.start import start

if __name__ == "__main__":
    start("embed")
