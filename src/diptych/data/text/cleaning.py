"""OpenAI's cleaning of text: ftfy's repairs, HTML entities, white space, lower case.

ftfy takes more time than the rest of a tokenizer, and changes almost no caption. So this module first finds the texts
that ftfy would not change, with ftfy's own tables: they have none of the characters that its steps replace, and no
two neighbours that could be a broken encoding. tests/data/text/test_cleaning.py compares the results with ftfy's.
"""

from __future__ import annotations

import html
import re
from unicodedata import is_normalized

import ftfy
from ftfy.badness import BADNESS_RE, is_bad
from ftfy.chardata import CONTROL_CHARS, LIGATURES, WIDTH_MAP
from ftfy.fixes import uncurl_quotes, unescape_html

LONGEST = 100_000  # characters: ftfy splits longer texts


def _class(characters: set[str]) -> str:
    return "".join(map(re.escape, sorted(characters)))


_TRANSLATED = {chr(code) for table in (CONTROL_CHARS, LIGATURES, WIDTH_MAP) for code in table}
# What any step replaces (except curly quotes), and an ampersand that could begin an entity.
_REPLACED = re.compile(
    rf"[{_class(_TRANSLATED)}"
    "\n\r\x80-\x9f\u2028\u2029\ud800-\udfff]|&[^\t\n\f <&;]"
)
# A broken encoding has two neighbours that are both in ftfy's rule, or one of a few characters alone.
_NAMED = "".join(re.findall(r"[^\x00-\x7f](?:-[^\x00-\x7f])?", BADNESS_RE.pattern))
_SUSPECT = re.compile(f"[{_NAMED}](?:(?<=[\x80-\x9fŒœÂÃ])|[{_NAMED}])")


def clean_words(text: str) -> list[str]:
    """The words of a text, cleaned and in lower case."""
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = repair(text)
    return text.lower().split()


def repair(text: str) -> str:
    """The same as `html.unescape(html.unescape(ftfy.fix_text(text)))`, but faster."""
    repaired = unescape_html(text) if "&" in text and "<" not in text else text
    if _stays(repaired):
        uncurled = uncurl_quotes(repaired)
        if uncurled == repaired or _stays(uncurled):
            return uncurled
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _stays(text: str) -> bool:
    """Whether no step changes the text, except the one for curly quotes."""
    return (
        len(text) < LONGEST
        and not _REPLACED.search(text)
        and not (_SUSPECT.search(text) and is_bad(text))
        and is_normalized("NFC", text)
    )
