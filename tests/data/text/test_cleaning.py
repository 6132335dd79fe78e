"""The short way through ftfy gives what the long one gives."""

from __future__ import annotations

import html
import itertools

import ftfy
import texts
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import example, given
from hypothesis import strategies as st

from diptych.data.text import cleaning
from diptych.data.text.cleaning import repair

# Characters that ftfy's steps look at, far more often than by chance.
NAMED = [c for part in MOJIBAKE_CATEGORIES.values() for c in part] + list("ÂÃÎÐØÙŒœàâ√≈‚Ä×²³ВГРСЂЎβΒΓΞΟ€ā™°")
TOUCHY = st.text(
    st.sampled_from(
        [*NAMED, *"aZ 09.'\"<&;#x\n\r\t\x1b[m", "\u02bc", "\u2019", "\u0301", "\ufb01", "\uff06", "\ud83d"]
    )
)


def plainly(text: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(text)))


@given(
    st.one_of(
        st.text(),
        TOUCHY,
        st.lists(st.sampled_from(["&amp;", "&lt;", "&copy", "&#39;", "&", "<", "a", "\u2019"])).map("".join),
    )
)
@example("\u00c3 \u00e9")
@example("&amp;lt;\u201ca\u201d")
@example("\uff06amp;")
@example("\u2019\u0301")
def test_the_same_as_ftfy(text: str) -> None:
    assert repair(text) == plainly(text)


def test_the_same_on_texts_of_every_kind() -> None:
    made = texts.corpus(5000, seed=7)
    assert [repair(text) for text in made] == [plainly(text) for text in made]


def test_no_lone_character_is_a_broken_encoding() -> None:
    """What the short way relies on: between ASCII, one character that ftfy's rule names is harmless, some apart."""
    ascii_ = [chr(byte) for byte in range(128)]
    around = [before + "{}" + after for before, after in itertools.product(["", *ascii_], ["", *ascii_])]
    named = {chr(code) for code in range(0x80, 0x10000) if cleaning._SUSPECT.search(f"{chr(code)}\u00e9")}
    lone = [character for character in named if not cleaning._SUSPECT.search(character)]
    assert len(lone) > 400
    for character in lone[::7]:
        assert not is_bad("  ".join(around).replace("{}", character))
    for character in lone:
        assert not is_bad("  ".join(around[::37]).replace("{}", character))
