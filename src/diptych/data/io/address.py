"""Addresses: their scheme, how messages print them, and whether they are valid. Nothing is opened here."""

from __future__ import annotations

import re
from unicodedata import category
from urllib.parse import urlsplit

TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the writing direction
HTTP = ("http", "https")
_QUERY = re.compile(r"([?#])[^/?#=]*=.*", re.DOTALL)  # of an address without its scheme
BUCKETS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}  # scheme -> the package that fsspec needs for it


def scheme(path: str) -> str:
    """'' for a path, 'pipe' for a command, else the text before '://' in lower case."""
    if path.startswith("pipe:"):
        return "pipe"
    return path.split("://", 1)[0].lower() if "://" in path else ""


def is_local(path: str) -> bool:
    return scheme(path) in ("", "file")


def is_remote(path: str) -> bool:
    return scheme(path) not in ("", "file", "pipe")


def local(path: str) -> str:
    return path[len("file://") :] if scheme(path) == "file" else path


def shown(path: str) -> str:
    """The address for messages: `printable`, without user, password, query (signatures) and a command's arguments."""
    kind = "pipe" if path[:5].lower() == "pipe:" else scheme(path)
    if kind == "pipe":
        return printable(f"{path.split()[0]} …" if len(path.split()) > 1 else path)
    if kind == "":
        return printable(_QUERY.sub(r"\1…", path))
    try:
        parts = urlsplit(path)
        _ = parts.port  # invalid where a password has a ':' or '/': host or path would hold a part of it
    except ValueError:
        return f"{kind}://…"
    if "://" in re.split(r"[?#]", path)[0].partition("://")[2]:  # the inner address may have a password too
        return f"{printable(kind)}://…"
    return printable(f"{kind}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def printable(text: str) -> str:
    """Text from outside for messages: control characters and invalid UTF-8 become escapes. Spaces of all kinds and
    joiners, as in Persian names and many emoji, stay."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _is_control(c) else c for c in text)


def _is_control(letter: str) -> bool:
    harmless = category(letter) in ("Zs", "Cf") and letter not in TURNS
    return not (letter.isprintable() or harmless)


def host(path: str) -> str:
    return urlsplit(path).netloc.rpartition("@")[2]


def fault(path: str) -> str | None:
    """Why an address is invalid, as the end of a sentence; None for a valid one of a known kind."""
    kind = scheme(path)
    if kind == "pipe":
        return None
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        return "contains a control character: write the address without it"
    if kind == "":
        return "begins with pipe: in capitals: write it in lower case" if path[:5].lower() == "pipe:" else None
    if kind == "file":
        return _file_fault(path)
    if kind not in (*HTTP, *BUCKETS):
        known = ", ".join(f"{name}://" for name in ("file", *HTTP, *BUCKETS))
        return f"has an unknown scheme: give a path or one of {known}"
    if " " in path or "\\" in path:
        return "contains a space or a backslash: write a space as %20 and separate folders by /"
    if kind in BUCKETS and "::" in path:
        return "chains file systems by '::', which is not supported: give the object itself"
    return _url_fault(path)


def _file_fault(path: str) -> str | None:
    if not path.startswith("file:///"):
        return "names a host or a relative path: write file:///absolute/path, or just the path"
    if any(mark in path for mark in "%?#"):
        return "is escaped like a URL, which is ambiguous for a file: give the plain path"
    return None


def _url_fault(path: str) -> str | None:
    try:
        parts = urlsplit(path)
        _ = parts.port
    except ValueError:
        return "is not a valid URL (its host or port can't be read): escape ':', '/' and '@' in a password"
    if not parts.hostname:
        return "names no host: write scheme://host/path"
    # Without a path 'http://x.json' would be an index whose neighbours are other hosts.
    if not parts.path.strip("/"):
        return "names no file on its host: write scheme://host/path"
    if parts.fragment:
        return "has a '#', which no server sees: leave it out or write %23"
    return None
