"""Plan: `python src/plan.py model=vit_l14 trainer=fsdp data.batch_size=32768 ranks=256`."""

from diptych.commands.start import start

if __name__ == "__main__":
    start("plan")
