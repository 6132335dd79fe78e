"""OpenAI's cleaning of text: ftfy's repairs, HTML entities, white space, lower case.

ftfy costs more than all the rest of a tokenizer, and leaves nearly every caption as it is. So what it would leave
is found first, from ftfy's own tables: text with none of the characters that its steps replace, and no neighbours
that could be a broken encoding. tests/data/text/test_cleaning.py holds both ways against one another.
"""

from __future__ import annotations

import html
import re
from unicodedata import is_normalized

import ftfy
from ftfy.badness import BADNESS_RE, is_bad
from ftfy.chardata import CONTROL_CHARS, LIGATURES, WIDTH_MAP
from ftfy.fixes import uncurl_quotes, unescape_html

LONGEST = 100_000  # characters: ftfy looks at longer texts in parts


def _class(characters: set[str]) -> str:
    return "".join(map(re.escape, sorted(characters)))


_TRANSLATED = {chr(code) for table in (CONTROL_CHARS, LIGATURES, WIDTH_MAP) for code in table}
# What some step replaces, curly quotes apart, and an ampersand that could begin an entity.
_REPLACED = re.compile(
    rf"[{_class(_TRANSLATED)}"
    "\n\r\x80-\x9f\u2028\u2029\ud800-\udfff]|&[^\t\n\f <&;]"
)
# A broken encoding shows in two neighbours out of those that ftfy's rule names, or in one of these alone.
_NAMED = "".join(re.findall(r"[^\x00-\x7f](?:-[^\x00-\x7f])?", BADNESS_RE.pattern))
_SUSPECT = re.compile(f"[{_NAMED}](?:(?<=[\x80-\x9fŒœÂÃ])|[{_NAMED}])")


def clean_words(text: str) -> list[str]:
    """A text's words, clean and in lower case."""
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = mend(text)
    return text.lower().split()


def mend(text: str) -> str:
    """`html.unescape(html.unescape(ftfy.fix_text(text)))`, sooner."""
    mended = unescape_html(text) if "&" in text and "<" not in text else text
    if _stays(mended):
        uncurled = uncurl_quotes(mended)
        if uncurled == mended or _stays(uncurled):
            return uncurled
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _stays(text: str) -> bool:
    """Whether no step but the one for curly quotes changes the text."""
    return (
        len(text) < LONGEST
        and not _REPLACED.search(text)
        and not (_SUSPECT.search(text) and is_bad(text))
        and is_normalized("NFC", text)
    )
