"""Credentials and signatures in addresses and configs: never written, never printed.

A run's config holds the address that its shards are read from, and that may hold a password or a signed query. What
is written and printed holds HIDDEN in its place; the processes of the run get the true one from memory.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "<hidden>"
_SECRET = (
    r"(?:[\w.-]*[_.-])?(?:pass(?:word|wd|phrase)?|pwd|secrets?|tokens?|credentials?|authorization|bearer|signature|sig"
    r"|(?:api|access|secret|private|account|auth|session|signing|encryption)[_-]?key(?:[_-]?id)?|apikey|hmac|jwt|sas"
    r"|(?:access|auth|refresh|session|api|id|bearer)[_-]?token)"
)
_KEY = re.compile(_SECRET, re.IGNORECASE)  # of a config, whose whole value is hidden
_URL = re.compile(r"(?<![\w+.-])(?P<scheme>[A-Za-z][\w+.-]*://)(?P<rest>(?:<hidden>|[^\s'\"<>])+)")
_WHOLE = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<rest>.+)", re.DOTALL)
_HARMLESS = re.compile(r"(?:true|false|\d{1,3}|)", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?P<name>(?<![\w-])-{{0,2}}{_SECRET})(?P<is>\s*[=:]\s*|(?<=\w)\s+(?=\S))(?P<value>\S+)", re.IGNORECASE
)
_HEADER = re.compile(r"(?P<name>\b(?:Basic|Bearer)\s+)(?P<value>[A-Za-z0-9+/=_.~-]{8,})")
_COMMAND_USER = re.compile(r"(?P<name>(?:^|\s)(?:-u|--user|--proxy-user)[\s=]*)(?P<value>[^\s:]+:\S+)")
_OVERRIDE = re.compile(r"(?P<key>[+~]{0,2}[\w.@/-]+)=(?P<value>.*)", re.DOTALL)
# An override among others: a list in brackets or quotes has its own commas.
_GIVEN = re.compile(
    rf"(?P<key>(?<![^\s,'\"{{])[+~]{{0,2}}{_SECRET})="
    r"(?P<value>\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,]+(?:,[^\s,=]+(?=,|\s|$))*)",
    re.IGNORECASE,
)
_BRACES = re.compile(r"\{[^{}]*\}")  # a mapping as Hydra's grammar and JSON have it
_ENTRY = re.compile(
    rf"(?P<key>['\"]?\b{_SECRET}['\"]?\s*:\s*)(?P<value>'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[^,}}]+)", re.IGNORECASE
)
_QUERY = re.compile(r"\?(?:<hidden>|[^\s'\"<>)])+")  # of a path alone
_KNOWN = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,})\b")


def masked_text(text: str) -> str:
    """Text with HIDDEN for users and passwords of URLs, for the values of their queries (but numbers of up to three
    digits and true or false, which hide nothing), and for tokens of known forms."""
    if "://" in text:
        text = _URL.sub(_address, text)
    return _KNOWN.sub(HIDDEN, text)


def masked_value(text: str) -> str:
    """As `masked_text`, for a value of a config; of a command (`pipe:…`) also what its options and headers hold."""
    if whole := _WHOLE.fullmatch(text):  # a password may hold what ends a URL in a sentence
        text = _address(whole)
    text = masked_text(text)
    if text.startswith("pipe:"):
        text = _HEADER.sub(rf"\g<name>{HIDDEN}", _COMMAND_USER.sub(rf"\g<name>{HIDDEN}", text))
        text = _ASSIGNED.sub(rf"\g<name>\g<is>{HIDDEN}", text)
    return text


def _address(found: re.Match[str]) -> str:
    """User and password reach to the last '@' before the path. A '/' or '?' in a password ends the host for a URL,
    yet people type it: then what should be a port is none."""
    rest = found["rest"]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before = ""
    if "@" in host:
        before, _, rest = _parted(rest, re.split(r"[?#]", rest, maxsplit=1)[0].rindex("@"))
    elif "@" in rest and not re.fullmatch(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?", host):
        before, _, rest = _parted(rest, rest.rindex("@"))
    rest, hash_mark, fragment = rest.partition("#")
    address, mark, query = rest.partition("?")
    if mark:
        query = "&".join(map(_parameter, query.split("&")))
    return f"{found['scheme']}{HIDDEN + '@' if before else ''}{address}{mark}{query}{hash_mark}{fragment and HIDDEN}"


def _parted(text: str, place: int) -> tuple[str, str, str]:
    return text[:place] or HIDDEN, text[place], text[place + 1 :]


def _parameter(part: str) -> str:
    name, equals, value = part.partition("=")
    if not equals:
        return part if _HARMLESS.fullmatch(part) else HIDDEN
    harmless = not value or (_HARMLESS.fullmatch(value) and not _KEY.fullmatch(name))
    return part if harmless else f"{name}={HIDDEN}"


def masked(node: Any) -> Any:
    """A config, nested mappings and lists of plain data, as it may be written. A text may be a list of overrides."""
    if isinstance(node, Mapping):
        return {key: _hidden(value) if _KEY.fullmatch(str(key)) else masked(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [masked(value) for value in node]
    return masked_argument(node) if isinstance(node, str) else node


def _hidden(node: Any) -> Any:
    """What stands at a secret's key: all but what hides nothing."""
    if isinstance(node, Mapping):
        return {key: _hidden(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_hidden(value) for value in node]
    harmless = node is None or node == "" or (not isinstance(node, str) and _HARMLESS.fullmatch(str(node)))
    return node if harmless else HIDDEN


def masked_argument(argument: str) -> str:
    """A word of a command line, `key=value`, as it may be written."""
    override = _OVERRIDE.match(argument)
    if not override:
        return masked_value(argument)
    if override["value"] and _KEY.fullmatch(override["key"].rpartition(".")[2]):
        return f"{override['key']}={HIDDEN}"
    return f"{override['key']}={masked_value(_without_keys(override['value']))}"


def masked_overrides(text: str) -> str:
    """As `masked_text`, of what Hydra prints of a command line: its overrides, with the colons escaped."""
    return masked_text(_without_keys(text.replace("\\:", ":")))


def _without_keys(text: str) -> str:
    """Text without what stands at secrets' keys, in overrides and in mappings."""
    text = _GIVEN.sub(rf"\g<key>={HIDDEN}", text)
    return _BRACES.sub(lambda found: _ENTRY.sub(rf"\g<key>{HIDDEN}", found[0]), text)


def filled(stored: Any, given: Any) -> Any:
    """A config that was written masked, with what `given` (another one, of the same keys) has in those places, where
    that is the same but for what is hidden."""
    if isinstance(stored, Mapping):
        others = given if isinstance(given, Mapping) else {}
        return {key: filled(value, others.get(key)) for key, value in stored.items()}
    if isinstance(stored, list):
        of_list = list(given) if isinstance(given, list | tuple) else []
        return [filled(v, of_list[n] if n < len(of_list) else None) for n, v in enumerate(stored)]
    if not isinstance(stored, str) or HIDDEN not in stored or given is None:
        return stored
    return given if stored == HIDDEN or (isinstance(given, str) and stored == masked_value(given)) else stored


class MaskedRecords(logging.Filter):
    """For the loggers of a library that logs the addresses it asks, and what servers answer."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub(f"?{HIDDEN}", masked_text(record.getMessage())), ()
        return True
