"""Seeded texts of every kind: such as a tokenizer finds in captions from the web, and such as nobody writes.

Only characters of old Unicode versions, so that ids don't depend on the version of the Unicode tables.
"""

from __future__ import annotations

import hashlib
import html.entities
import json
import random
from collections.abc import Callable, Iterable

CORPUS, BLOCK = 110_000, 1_000  # texts, more than 100,000 of them distinct; texts per digest

_SYLLABLES = (
    "ba be bi ca co da de el en er fa fi ga he in ing ka la le ly ma mi na ness no on or pa pre qu ra re ro sa "
)
_SYLLABLES += "se sh st ta th ti ton tra u un va wa we y za"
_WORDS = "a an the of in on at with and photo picture drawing painting cat dog man woman child people street house "
_WORDS += "tree car bus river mountain red blue green old new small large sitting standing wearing holding playing "
_WORDS += "it's don't they're we've i'm she'll he'd rock'n'roll t-shirt e-mail iPhone USA 3d 4k 1080p no.1 UTF-8"
SYLLABLES, WORDS = _SYLLABLES.split(), _WORDS.split()
PUNCTUATION = [
    ", ",
    ". ",
    "! ",
    "? ",
    "; ",
    ": ",
    " - ",
    " / ",
    "... ",
    " (",
    ") ",
    '"',
    "'",
    "''",
    "@",
    "#",
    "_",
    "&",
    " & ",
]
SCRIPTS = [  # ranges of letters without gaps
    (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x17F), (0x391, 0x3A1), (0x3B1, 0x3C9), (0x410, 0x44F), (0x531, 0x556),
    (0x5D0, 0x5EA), (0x620, 0x64A), (0x904, 0x939), (0x995, 0x9A8), (0xE01, 0xE2E), (0x10D0, 0x10F0),
    (0x1200, 0x1246), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x1E00, 0x1E99),
    (0x1F00, 0x1F07), (0x20000, 0x2A6D6), (0x1D400, 0x1D454),
]  # fmt: skip
OTHERS = [
    (0x20, 0x7E), (0xA0, 0xBF), (0x2B0, 0x2FF), (0x300, 0x34E), (0x660, 0x669), (0x93A, 0x94D), (0x966, 0x96F),
    (0x2000, 0x203A), (0x2070, 0x2071), (0x2074, 0x208E), (0x20A0, 0x20AC), (0x2100, 0x214B), (0x2150, 0x2189),
    (0x2190, 0x23FA), (0x2460, 0x27BF), (0x3000, 0x303F), (0xFB00, 0xFB06), (0xFE00, 0xFE0F), (0xFF01, 0xFF9F),
    (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F64F),
]  # fmt: skip
CONTROLS = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0xAD,
    *range(0x200B, 0x2010),
    0x2028,
    0x2029,
    0x206A,
    0xFEFF,
    0xFFF9,
    0xFFFC,
]
ENTITIES = sorted(html.entities.html5)
JOINED = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u2764\ufe0f",
    "#\ufe0f\u20e3",
    "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
]
ENCODINGS = ["latin-1", "cp1252", "cp1251", "cp1250", "cp437", "mac-roman"]


def word(draw: random.Random) -> str:
    if draw.random() < 0.5:
        return draw.choice(WORDS)
    made = "".join(draw.choice(SYLLABLES) for _ in range(draw.randrange(1, 6)))
    return draw.choice([made, made, made.capitalize(), made.upper(), f"{made}{draw.randrange(2000)}"])


def caption(draw: random.Random) -> str:
    return " ".join(word(draw) for _ in range(draw.randrange(1, 16)))


def punctuated(draw: random.Random) -> str:
    return "".join(word(draw) + draw.choice([" ", *PUNCTUATION]) for _ in range(draw.randrange(1, 12)))


def script(draw: random.Random) -> str:
    first, last = draw.choice(SCRIPTS)
    words = ["".join(chr(draw.randint(first, last)) for _ in range(draw.randrange(1, 8))) for _ in range(4)]
    return draw.choice([" ", "", " and ", "\u3001", "-"]).join([*words, draw.choice(WORDS)])


def quoted(draw: random.Random) -> str:
    marks = [
        "\u201c{}\u201d",
        "\u2018{}\u2019",
        "\u00ab{}\u00bb",
        "{}\u2019s",
        "{} \u2013 ",
        "{}\u2026",
        "{}\u2122",
        "{}\u00ae",
        "\u00a9 {}",
    ]
    return " ".join(draw.choice(marks).format(word(draw)) for _ in range(draw.randrange(1, 8)))


def emoji(draw: random.Random) -> str:
    one = [chr(draw.randint(0x1F300, 0x1F64F)), draw.choice(JOINED), chr(draw.randint(0x2600, 0x27BF))]
    return draw.choice([" ", ""]).join(draw.choice([*one, word(draw)]) for _ in range(draw.randrange(1, 10)))


def entities(draw: random.Random) -> str:
    def entity() -> str:
        name = f"&{draw.choice(ENTITIES)}"
        number = draw.choice([draw.randrange(0x180), draw.randrange(0x2200), 0x1F600, 0x110000])
        return draw.choice(
            [name, name.upper(), f"&#{number};", f"&#x{number:x};", f"&amp;{name[1:]}", "&amp;amp;", "&", "<b>"]
        )

    return draw.choice([" ", ""]).join(draw.choice([entity(), word(draw)]) for _ in range(draw.randrange(1, 8)))


def controls(draw: random.Random) -> str:
    return "".join(
        draw.choice([word(draw), chr(draw.choice(CONTROLS)), "\x1b[31m", " "]) for _ in range(draw.randrange(1, 12))
    )


def mojibake(draw: random.Random) -> str:
    text = draw.choice([script, quoted, emoji])(draw)
    for _ in range(draw.randrange(1, 3)):
        text = text.encode("utf-8", "replace").decode(draw.choice(ENCODINGS), "replace")
    return text


def anything(draw: random.Random) -> str:
    chosen = [draw.choice([*SCRIPTS, *OTHERS]) for _ in range(draw.randrange(1, 24))]
    return "".join(chr(draw.randint(first, last)) for first, last in chosen)


def long(draw: random.Random) -> str:
    kinds = [lambda draw: draw.choice("abz\u00e9\u65e5!") * draw.randrange(100, 2000), punctuated, script]
    return draw.choice([" ", ""]).join(draw.choice(kinds)(draw) for _ in range(draw.randrange(8, 40)))


def empty(draw: random.Random) -> str:
    return "".join(draw.choice(" \t\n\r\u00a0\u3000\u200b\x00") for _ in range(draw.randrange(6)))


KINDS: dict[Callable[[random.Random], str], int] = {  # number per hundred texts
    caption: 16, punctuated: 14, script: 16, quoted: 10, emoji: 10, entities: 10, controls: 6, mojibake: 8,
    anything: 8, empty: 2,
}  # fmt: skip


def corpus(count: int, seed: int = 0) -> list[str]:
    """`count` texts of all kinds; every thousandth is very long. The same on every machine."""
    draw = random.Random(seed)
    kinds = [kind for kind, share in KINDS.items() for _ in range(share)]
    return [long(draw) if number % 1000 == 999 else draw.choice(kinds)(draw) for number in range(count)]


def digest(rows: Iterable[list[int]]) -> str:
    """A hash of the ids of many texts."""
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()[:16]
