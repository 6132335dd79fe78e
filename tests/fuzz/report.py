"""Cases and findings by area and oracle: `python tests/fuzz/report.py [AREA[:NUMBER]] …`; without names, all areas.

AREA:NUMBER runs one case and prints what it finds, with its traceback.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    TESTS = Path(__file__).parents[1]
    sys.path[:] = [
        str(TESTS),
        str(TESTS / "support"),
        str(TESTS.parent / "src"),
        *(path for path in sys.path if path != str(Path(__file__).parent)),
    ]

from fuzz.areas import AREAS
from fuzz.cases import Found, run, run_all
from fuzz.oracles import ORACLES


def report(names: list[str], part: float = 1.0) -> list[Found]:
    """Run these areas, print the table and a line for each kind of finding."""
    print(f"{'area':<13}{'cases':>7}{'s':>7}" + "".join(f"{oracle:>16}" for oracle in ORACLES), flush=True)
    everything: list[Found] = []
    total = 0
    begin = time.process_time()
    for name in names:
        area, before = AREAS[name], time.process_time()
        cases = max(1, int(area.cases * part))
        found = list(run_all(area, range(cases)))
        everything += found
        total += cases
        row = Counter(each.finding.oracle for each in found)
        kinds = Counter(oracle for _, oracle, _ in {each.kind for each in found})
        cells = "".join(f"{f'{row[oracle]} ({kinds[oracle]})' if row[oracle] else '-':>16}" for oracle in ORACLES)
        print(f"{name:<13}{cases:>7}{time.process_time() - before:>7.1f}{cells}", flush=True)
    row = Counter(each.finding.oracle for each in everything)
    kinds = Counter(oracle for _, oracle, _ in {each.kind for each in everything})
    cells = "".join(f"{f'{row[oracle]} ({kinds[oracle]})' if row[oracle] else '-':>16}" for oracle in ORACLES)
    print(f"{'all':<13}{total:>7}{time.process_time() - begin:>7.1f}{cells}")
    print(f"\n{len(everything)} findings of {len({each.kind for each in everything})} kinds (in brackets)")
    first: dict[tuple[str, str, str], list[Found]] = {}
    for each in everything:
        first.setdefault(each.kind, []).append(each)
    for (name, oracle, kind), found in sorted(first.items()):
        example = f"{found[0].finding.detail[:140]!r} | {found[0].command}"
        print(f"{name:<12} {oracle:<15} {len(found):>4} × {kind} | {example}")
    return everything


if __name__ == "__main__":
    arguments = sys.argv[1:]
    single = [each for each in arguments if ":" in each]
    for each in single:
        area, _, number = each.partition(":")
        for found in run(AREAS[area], int(number)):
            print(found.finding)
    if not single:
        report(arguments or list(AREAS))
