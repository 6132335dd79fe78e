"""Writes tokenizer.json: texts and the ids that open_clip's SimpleTokenizer gives them, and for the corpus of
tests/support/texts.py a digest of its ids, a block of texts each.

    pip install --no-deps --target PEER open_clip_torch==3.3.0
    PYTHONPATH=tests/support python tests/golden/make_tokenizer_golden.py PEER
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import simple_tokenizer
from texts import BLOCK, CORPUS, corpus, digest

HAND_PICKED = [
    "",
    " ",
    "a photo of a cat",
    "A PHOTO of a Cat.",
    "  white\tspace\n\r\nand\u00a0more\u3000of it  ",
    "don't we'll it's I'M you've they'RE 'S'd rock'n'roll O'Neil '' '\u017f",
    "12345 3.14 $5.00 1,000 \u00bd \u00b2 \u2163 \u0663",
    "AT&amp;T &amp;lt;b&amp;gt; &lt;br&gt; <br> &eacute; &#39; &#x1F600; &quot; &nbsp; &unknown; &",
    "caf\u00e9 na\u00efve \u00c9COLE stra\u00dfe \u0130stanbul \u03a3\u0391\u03a3 \u212a",
    "caf\u00c3\u00a9 it\u00e2\u20ac\u2122s \u00e2\u20ac\u0153mojibake\u00e2\u20ac\u009d",
    "\u65e5\u672c\u8a9e\u306e\u6587 \ud55c\uad6d\uc5b4 \u4e2d\u6587 "
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f #\ufe0f\u20e3",
    "\u201ccurly\u201d \u2018quotes\u2019 \u2014 dash \u2026 \ufb01 ligature \uff21\uff22 wide",
    "\x00 \x07 \x1b[31mred\x1b[0m \x1c \x7f \x85 \u200b \ufeff \u2028 \ud800",
    "https://example.org/a_b?x=1&y=2#z @user #tag snake_case __init__ C++ a/b (c) [d] {e}",
    "! !! !!! ?! ... -- ~ ` ^ | \\",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "loooooooong " + "a" * 300,
    "word " * 100,
]


def texts(count: int) -> list[str]:
    """The hand-picked texts and seeded mixtures of their words, `count` in all."""
    draw = random.Random(0)
    words = [word for text in HAND_PICKED for word in text.split(" ") if len(word) < 60]
    gaps = [" ", " ", " ", "", "  ", "\n", ", ", "-"]
    found = list(HAND_PICKED)
    while len(found) < count:
        found.append("".join(draw.choice(words) + draw.choice(gaps) for _ in range(draw.randrange(1, 15))))
    return found


def main() -> None:
    site = Path(sys.argv[1])
    peer = simple_tokenizer.load(site)()
    out = Path(__file__).parent / "tokenizer.json"
    pairs = [[text, peer.encode(text)] for text in texts(200)]
    ids = [peer.encode(text) for text in corpus(CORPUS)]
    blocks = [digest(ids[start : start + BLOCK]) for start in range(0, CORPUS, BLOCK)]
    rows = ",\n".join(json.dumps(pair, separators=(",", ":")) for pair in pairs)
    made_with = json.dumps(simple_tokenizer.versions(site))
    out.write_text(f'{{"made_with": {made_with},\n"pairs": [\n{rows}\n],\n"blocks": {json.dumps(blocks)}}}\n')


if __name__ == "__main__":
    main()
