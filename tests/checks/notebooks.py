"""Refuse notebooks that carry output, and ones that define what belongs into the package."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path


def faults(path: Path) -> list[str]:
    """What is wrong with one notebook, in sentences."""
    found = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] != "code":
            continue
        if cell["outputs"] or cell["execution_count"] is not None:
            found.append(f"{path}: cell {number} has output; clear it before committing.")
        tree = ast.parse("".join(cell["source"]))
        if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree)):
            found.append(f"{path}: cell {number} defines something; move it into src/diptych.")
    return found


if __name__ == "__main__":
    errors = [error for name in sys.argv[1:] for error in faults(Path(name))]
    print("\n".join(errors))
    sys.exit(bool(errors))
