"""The fuzzer: a seeded sample of each area in the fast suite, all cases in the long one.

A failure names the case: `python tests/fuzz/report.py AREA:NUMBER` runs it alone, without `:NUMBER` the area.
"""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
from pathlib import Path
from random import Random

import pytest
from fuzz import bait
from fuzz.areas import AREAS, CASES
from fuzz.cases import Area, Found, Trial, run, run_all
from fuzz.known import KNOWN
from fuzz.oracles import BOUNDS, CANARY, CODE, COUNT, SECRET, TRACEBACK, Lost
from fuzz.report import report

from diptych.base.errors import UserError

SAMPLE = {"configs": 5, "commands": 2, "checkpoints": 12}  # cases of the fast suite, 20 of the other areas


def told(found: list[Found]) -> str:
    text = "\n".join(f"{each.kind} {each.finding.detail[:300]}\n    {each.command}" for each in found)
    return text.encode("ascii", "backslashreplace").decode()  # what xdist can send


@pytest.mark.parametrize("name", AREAS)
def test_a_sample_of_each_area_has_no_finding(name: str, tmp_path: Path) -> None:
    found = run_all(AREAS[name], range(SAMPLE.get(name, 20)), tmp_path)
    assert not (new := [each for each in found if each.kind not in KNOWN]), told(new)


@pytest.mark.slow
@pytest.mark.parametrize("name", AREAS)
def test_no_case_of_an_area_has_a_finding(name: str, tmp_path: Path) -> None:
    found = list(run_all(AREAS[name], range(AREAS[name].cases), tmp_path))
    assert not (new := [each for each in found if each.kind not in KNOWN]), told(new)
    gone = {kind for kind in KNOWN if kind[0] == name} - {each.kind for each in found}
    assert not gone, f"known and gone, take it out of tests/fuzz/known.py: {gone}"


def test_there_are_ten_thousand_cases() -> None:
    assert CASES >= 10_000
    assert {kind[0] for kind in KNOWN} <= set(AREAS)


def of(call: object, tmp_path: Path, **more: object) -> set[str]:
    """The oracles that cry out at a case which does this."""

    def make(rng: Random, folder: Path) -> Trial:
        return Trial(lambda: call(folder), **more)  # type: ignore[operator, arg-type]

    return {each.finding.oracle for each in run(Area("x", make, 1), 0, tmp_path)}


def raising(error: BaseException) -> object:
    def call(folder: Path) -> None:
        raise error

    return call


def outside(folder: Path) -> None:
    (folder.parents[1] / "x").write_text("")


def spinning(folder: Path) -> None:
    while True:
        pass


def test_each_oracle_cries_out(tmp_path: Path) -> None:
    """What an oracle is there for, done on purpose."""
    assert of(lambda folder: os.system("true"), tmp_path) == {CODE}
    assert of(lambda folder: subprocess.run(["true"]), tmp_path) == {CODE}
    assert of(lambda folder: __import__("turtle", fromlist=["x"]) and None, tmp_path) >= {CODE}
    assert of(lambda folder: bait.called(1), tmp_path) == {CODE}
    assert of(lambda folder: eval(compile("'fuzz_mark_5d1c'", "x", "eval")), tmp_path) == {CODE}
    assert of(outside, tmp_path) == {CODE}
    assert of(lambda folder: print(CANARY), tmp_path) == {SECRET}
    assert of(lambda folder: (folder.parent / "secret.txt").read_text(), tmp_path) == {SECRET}
    assert of(raising(UserError(CANARY)), tmp_path) == {SECRET}
    assert of(raising(KeyError("x")), tmp_path) == {TRACEBACK}
    assert of(raising(RecursionError()), tmp_path) == {TRACEBACK}
    assert of(spinning, tmp_path) == {BOUNDS}
    ctypes.CDLL(None).malloc_trim(0)  # freed by other tests, it would be filled unseen
    assert of(lambda folder: bytearray(2**29) and None, tmp_path) == {BOUNDS}
    assert of(raising(Lost("x")), tmp_path) == {COUNT}


def test_no_oracle_cries_out_at_what_is_right(tmp_path: Path) -> None:
    assert of(raising(UserError("a sentence")), tmp_path) == set()
    assert of(raising(io.UnsupportedOperation()), tmp_path, documented=(OSError,)) == set()
    assert of(lambda folder: (folder / "x").write_text("x"), tmp_path) == set()


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    drawn: list[str] = []

    def make(rng: Random, folder: Path) -> Trial:
        drawn.append(rng.randbytes(8).hex())
        return Trial(lambda: None)

    for number in (3, 4, 3):
        run(Area("x", make, 9), number, tmp_path)
    assert drawn[0] == drawn[2] != drawn[1]


def test_the_report_counts_cases_and_findings(capsys: pytest.CaptureFixture[str]) -> None:
    report(["samples", "texts"], 0.005)
    said = capsys.readouterr().out
    assert "samples" in said and "all" in said and "findings of" in said
