"""Byte-level BPE vocabularies in CLIP's merges format: a title, then one merge a line, as text or gzip.

Ids follow from the merges alone: the 256 bytes, the 256 bytes that end a word, one id for each merge, [SOS], [EOS].
So [EOS] is the highest id, and any tool that reads OpenAI's file reads these.
"""

from __future__ import annotations

import gzip
import io
import zlib
from array import array
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import regex
from tokenizers.models import BPE

from diptych.base.errors import UserError
from diptych.base.files import read_regular
from diptych.base.textfile import split_lines

OPENAI = Path(__file__).parent / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
OPENAI_MERGES = 49152 - 256 - 2  # how many of the file's merges have an id in OpenAI's vocabulary
SPECIALS = ("<|startoftext|>", "<|endoftext|>")
BASE = 512 + len(SPECIALS)  # ids that do not come from merges
TITLE = "#version: 0.2"
LARGEST = 2**26  # bytes of text: a vocabulary of a million ids is smaller
# Special tokens, English clitics, letters, single digits, everything else: OpenAI's rule, with the engine that OpenAI
# uses, because other engines don't know the newest letters.
WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# The character that stands for a byte in a token -> the byte, in the order of ids.
BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}
_SYMBOLS = {byte: symbol for symbol, byte in BYTES.items()}

CACHED, WORD_CHARACTERS = 2**16, 32  # words in the cache, and their largest length: a worker process lives for days


def pieces(word: str) -> list[str]:
    """What BPE merges: a clean word, split by OpenAI's rule, with a visible character for each of its UTF-8 bytes."""
    return [
        piece if piece in SPECIALS else piece.encode().decode("latin-1").translate(_SYMBOLS)
        for piece in WORDS.findall(word)
    ]


class Vocabulary:
    """merges: pairs of symbols in the order in which they were learned; `text` is the content of their file

    tokens: the token of each id; size: how many there are; sot, eot: the ids of [SOS] and [EOS]
    ends: for each id, whether it ends a word
    """

    def __init__(self, merges: list[tuple[str, str]], title: str = TITLE) -> None:
        self.merges, self.title = merges, title
        ends = [f"{symbol}</w>" for symbol in BYTES]
        self.tokens = [*BYTES, *ends, *(left + right for left, right in merges), *SPECIALS]
        self.size = len(self.tokens)
        self.sot, self.eot = self.size - 2, self.size - 1
        self.ends = [token.endswith("</w>") for token in self.tokens[: self.sot]] + [True, True]  # a word
        self.typecode = "H" if self.size <= 2**16 else "I"  # of ids in a row
        self.words = _Words(self)
        self._ids = {token: number for number, token in enumerate(self.tokens)}
        self._bpe = BPE(self._ids, merges, end_of_word_suffix="</w>")

    @property
    def text(self) -> str:
        # No newline at the end: open_clip counts an empty last line as a merge.
        return "\n".join([self.title, *map(" ".join, self.merges)])

    def encode(self, word: str) -> array[int]:
        """The ids of a clean word, which has no white space in it."""
        ids = array(self.typecode)
        for piece in pieces(word):
            if piece in SPECIALS:
                ids.append(self._ids[piece])
            else:
                ids.extend(token.id for token in self._bpe.tokenize(piece))
        return ids

    def decode(self, ids: Iterator[int]) -> str:
        """The text of the ids, with spaces around punctuation. Bytes that are not UTF-8 become U+FFFD."""
        symbols = "".join(self.tokens[number].replace("</w>", " ") for number in ids)
        raw = bytes(BYTES.get(symbol, 0x20) for symbol in symbols)
        return raw.decode("utf-8", errors="replace").strip()


class _Words(dict[str, bytes]):
    """A cache: word -> its ids as bytes, which are small and quick to join."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def __missing__(self, word: str) -> bytes:
        ids = self.vocabulary.encode(word).tobytes()
        if len(word) <= WORD_CHARACTERS:
            if len(self) >= CACHED:
                self.clear()
            self[word] = ids
        return ids


@cache
def openai() -> Vocabulary:
    """OpenAI's 49,408 ids, read once in a process, when they are first needed."""
    lines = gzip.decompress(OPENAI.read_bytes()).decode().split("\n")[: OPENAI_MERGES + 1]
    return Vocabulary([_pair(line, "") for line in lines[1:]], lines[0])


def read(source: str | Path) -> Vocabulary:
    """A vocabulary from its file, or from its text.

    Raises UserError for a file that is missing or is not in CLIP's merges format, with the line.
    """
    name = str(source)
    return _parsed(name, "its text") if is_text(name) else _parsed(_content(Path(source)), name)


def is_text(source: str) -> bool:
    """Whether this is a vocabulary's text and not a file's name: only a text has several lines."""
    return "\n" in source


def _content(path: Path) -> str:
    if not path.is_file():
        raise UserError(
            f"vocabulary={path} does not exist: make one with `python -m diptych.data.tokenizer train`, or null for"
            " OpenAI's."
        )
    try:
        data = read_regular(path)
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UserError(f"vocabulary={path} holds more than {LARGEST >> 20} MB: no vocabulary is that large.")
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"vocabulary={path} is damaged or no vocabulary ({error}): make it again.") from error


@lru_cache(4)  # vocabularies are large and few
def _parsed(text: str, name: str) -> Vocabulary:
    title, *lines = split_lines(text) or [""]
    known = {*BYTES, *(f"{symbol}</w>" for symbol in BYTES)}
    merges = []
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        left, right = _pair(line, f"vocabulary={name}, line {number}")
        if unknown := {left, right} - known:
            raise UserError(
                f"vocabulary={name}, line {number}: {min(unknown)!r} is neither a byte nor made by an earlier merge;"
                " give a file in CLIP's merges format."
            )
        known.add(left + right)
        merges.append((left, right))
    if not merges:
        raise UserError(f"vocabulary={name} holds no merge: give a file in CLIP's merges format.")
    return Vocabulary(merges, title)


def _pair(line: str, place: str) -> tuple[str, str]:
    try:
        left, right = line.split(" ")
    except ValueError as error:
        raise UserError(f"{place}: {line[:40]!r} is not two symbols; give a file in CLIP's merges format.") from error
    return left, right
