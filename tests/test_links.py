"""What README, docs, code and configs refer to is there."""

from __future__ import annotations

import re

from found import found

from diptych.base.files import ROOT

PAGES = [*found(ROOT, "*.md"), *found(ROOT / "docs", "**/*.md"), *found(ROOT / "data", "*.md")]
FOLDERS = {"src": "py", "tests": "py", "benchmarks": "py", "conf": "yaml"}
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def test_every_relative_link_of_a_page_leads_somewhere() -> None:
    seen = 0
    for page in PAGES:
        for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            if "://" not in link and not link.startswith(("#", "mailto:")):
                assert (page.parent / link.partition("#")[0]).exists(), f"{page.relative_to(ROOT)}: {link}"
                seen += 1
    assert seen > 50


def test_every_page_is_linked_from_the_index() -> None:
    """A page is in docs/README.md, or in the README of its folder."""
    for page in found(ROOT / "docs", "**/*.md"):
        if page.name != "README.md":
            indexes = [ROOT / "docs/README.md", page.parent / "README.md"]
            links = {
                (i.parent / to).resolve() for i in indexes if i.is_file() for to in LINK.findall(i.read_text("utf-8"))
            }
            assert page in links, f"{page.relative_to(ROOT)} is in no index"


def test_every_page_that_a_message_or_comment_names_is_there() -> None:
    files = [
        *PAGES,
        ROOT / "Makefile",
        *(f for name, end in FOLDERS.items() for f in found(ROOT / name, f"**/*.{end}")),
    ]
    seen = 0
    for file in files:
        if file.name != "CHANGELOG.md":  # it tells of the past
            for name in re.findall(r"\bdocs/[\w/.-]+\.(?:md|png)", file.read_text(encoding="utf-8")):
                assert (ROOT / name).is_file(), f"{file.relative_to(ROOT)}: {name}"
                seen += 1
    assert seen > 20


def test_every_module_and_test_that_a_page_names_is_there() -> None:
    """A proof whose command names a test that has moved is none."""
    places, readers_own = (ROOT, ROOT / "src", ROOT / "src/diptych"), {"src/hardest.py"}
    seen = 0
    for page in PAGES:
        if page.name != "CHANGELOG.md":  # it tells of the past
            text = page.read_text(encoding="utf-8")
            for name in re.findall(r"(?<![\w/.-])(?:(?:[\w.-]+/)+[\w-]+\.py\b|tests/[\w/.-]*\w)", text):
                there = any((place / name).exists() for place in places)
                assert there or name in readers_own, f"{page.relative_to(ROOT)}: {name}"
                seen += 1
    assert seen > 200
