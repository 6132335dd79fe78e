"""Runs the benchmarks and writes their output to results.md.

python benchmarks/results.py [NAME …]

Without names it runs all of them, one hour on two cores. With names it runs only those and keeps the other sections.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILE = HERE / "results.md"
COMMANDS = {
    "step-fp32": "step.py vit_b32 vit_b16 rn50 --batch 16",
    "step-bf16": "step.py vit_b32 vit_b16 rn50 --batch 16 --precision bf16-mixed",
    "step-large": "step.py vit_b32 rn50 --batch 64 --rounds 3",
    "step-middle": "step.py vit_b16 --batch 32 --rounds 3",  # with 64 the two hold 24 GB
    "step-large-bf16": "step.py vit_b32 vit_b16 rn50 --batch 64 --rounds 3 --precision bf16-mixed",
    "savings-fp32": "savings.py vit_b32 --batch 16 --rounds 3",
    "savings-bf16": "savings.py vit_b32 vit_b16 rn50 --batch 16 --rounds 3 --precision bf16-mixed",
    "embed": "embed.py vit_b32 rn50 --rounds 3",
    "embed-bf16": "embed.py vit_b32 rn50 --rounds 3 --precision bf16-mixed",
    "growth": "growth.py",
    "startup": "startup.py",
    "loss": "loss.py --n 16384 --dense 8192",
    "tokenizer": "tokenizer.py",
    "image": "image.py",
    "shuffle": "shuffle.py",
    "order": "order.py",
    "seek": "seek.py",
}
TOP = """# What the benchmarks said
`make bench` writes this file; a section is a command and its output, on the machine that its first line names.
"""


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    models = re.findall(r"model name\s*: (.+)", info)
    return f"{len(models)} cores, {models[0]}" if models else "unknown cores"


def sections() -> dict[str, str]:
    """The sections of the file, by name."""
    parts = re.split(r"^## (\S+)\n", FILE.read_text() if FILE.is_file() else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def run(name: str) -> str:
    command = COMMANDS[name].split()
    typed = f"$ python benchmarks/{COMMANDS[name]}"
    print(typed, flush=True)
    lines = []
    with subprocess.Popen(
        [sys.executable, str(HERE / command[0]), *command[1:]],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        lines.append(f"(it ended with code {process.returncode})\n")
    return f"{machine()}\n\n```\n{typed}\n{''.join(lines).strip()}\n```\n\n"


def main() -> None:
    names = sys.argv[1:] or list(COMMANDS)
    if unknown := set(names) - set(COMMANDS):
        sys.exit(f"{', '.join(sorted(unknown))} is none of {', '.join(COMMANDS)}.")
    for name in names:
        found = sections() | {name: run(name)}
        ordered = {each: found[each] for each in COMMANDS if each in found}
        FILE.write_text(TOP + "\n" + "".join(f"## {each}\n{text.rstrip()}\n\n" for each, text in ordered.items()))


if __name__ == "__main__":
    main()
