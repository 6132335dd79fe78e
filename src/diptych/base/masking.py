"""Credentials and signatures in addresses and configs: never written, never printed.

A run's config holds the address of its shards, which may contain a password or a signed query. Files and the terminal
get HIDDEN in its place; the run's processes get the real address in memory.
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
_KEY = re.compile(_SECRET, re.IGNORECASE)  # a key of a config whose whole value is hidden
# A path library makes one slash of two: http:/user:password@host.
_URL = re.compile(
    r"(?<![\w+.-])(?P<scheme>[A-Za-z][\w+.-]*:(?://|/(?=[^\s'\"<>]*@)))(?P<rest>(?:<hidden>|[^\s'\"<>])+)"
)
_QUOTED_URL = re.compile(r"(?P<quote>['\"])(?P<url>[A-Za-z][\w+.-]*://[^'\"]*@[^'\"]*)(?P=quote)")
_WHOLE = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<rest>.+)", re.DOTALL)
_HARMLESS = re.compile(r"(?:true|false|\d{1,3}|)", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?P<name>(?<![\w-])-{{0,2}}{_SECRET})(?P<is>\s*[=:]\s*|(?<=\w)\s+(?=\S))(?P<value>\S+)", re.IGNORECASE
)
_HEADER = re.compile(r"(?P<name>\b(?:Basic|Bearer)\s+)(?P<value>[A-Za-z0-9+/=_.~-]{8,})")
_COMMAND_USER = re.compile(r"(?P<name>(?:^|\s)(?:-u|--user|--proxy-user)[\s=]*)(?P<value>[^\s:]+:\S+)")
_OVERRIDE = re.compile(r"(?P<key>[+~]{0,2}[\w.@/-]+)=(?P<value>.*)", re.DOTALL)
# One of several overrides. A value in brackets or quotes may contain commas.
_GIVEN = re.compile(
    rf"(?P<key>(?<![^\s,'\"{{])[+~]{{0,2}}{_SECRET})="
    r"(?P<value><hidden>|\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,]+(?:,[^\s,=]+(?=,|\s|$))*)",
    re.IGNORECASE,
)
_BRACES = re.compile(r"\{[^{}]*\}")  # a mapping in Hydra's grammar or JSON
_ENTRY = re.compile(
    rf"(?P<key>['\"]?\b{_SECRET}['\"]?\s*:\s*)(?P<value>'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[^,}}]+)", re.IGNORECASE
)
_QUERY = re.compile(r"\?(?:<hidden>|[^\s'\"<>)])+")  # of an address without scheme and host
_KNOWN = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,})\b")


def masked_text(text: str) -> str:
    """`text` with HIDDEN for users and passwords in URLs, for the values in their queries, and for tokens of known
    forms. Numbers of up to three digits, true and false stay: they are no secrets."""
    if ":/" in text:
        text = _QUOTED_URL.sub(lambda found: f"{found['quote']}{_whole(found['url'])}{found['quote']}", text)
        text = _URL.sub(_address, text)
    return _KNOWN.sub(HIDDEN, text)


def masked_value(text: str) -> str:
    """Like `masked_text`, for a value in a config. In a command (`pipe:…`) secret options and headers are hidden
    too."""
    text = masked_text(_whole(text))
    if text.startswith("pipe:"):
        text = _HEADER.sub(rf"\g<name>{HIDDEN}", _COMMAND_USER.sub(rf"\g<name>{HIDDEN}", text))
        text = _ASSIGNED.sub(rf"\g<name>\g<is>{HIDDEN}", text)
    return text


def _whole(text: str) -> str:
    """A text that is an address and nothing else: a password may contain characters that end a URL in a sentence."""
    whole = _WHOLE.fullmatch(text)
    return _address(whole) if whole else text


def _address(found: re.Match[str]) -> str:
    """User and password end at the last '@' before the path. People also type a '/' or '?' in a password, which ends
    the host of a URL: such a password shows in an invalid port."""
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
    """A config of nested mappings and lists without secrets, to be written. A text in it may be a list of
    overrides."""
    if isinstance(node, Mapping):
        return {key: _hidden(value) if _KEY.fullmatch(str(key)) else masked(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [masked(value) for value in node]
    return masked_argument(node) if isinstance(node, str) else node


def _hidden(node: Any) -> Any:
    """The value at a secret's key, hidden unless it is empty or harmless."""
    if isinstance(node, Mapping):
        return {key: _hidden(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_hidden(value) for value in node]
    harmless = node is None or node == "" or (not isinstance(node, str) and _HARMLESS.fullmatch(str(node)))
    return node if harmless else HIDDEN


def masked_argument(argument: str) -> str:
    """An argument of a command line, `key=value`, without secrets."""
    override = _OVERRIDE.match(argument)
    if not override:
        return masked_value(argument)
    if override["value"] and _KEY.fullmatch(override["key"].rpartition(".")[2]):
        return f"{override['key']}={HIDDEN}"
    return f"{override['key']}={masked_value(_without_keys(override['value']))}"


def masked_overrides(text: str) -> str:
    """Like `masked_text`, for the overrides of a command line as Hydra prints them, with escaped colons."""
    return masked_text(_without_keys(text.replace("\\:", ":")))


def _without_keys(text: str) -> str:
    """`text` without the values at secret keys in overrides and mappings."""
    text = _GIVEN.sub(rf"\g<key>={HIDDEN}", text)
    return _BRACES.sub(lambda found: _ENTRY.sub(rf"\g<key>{HIDDEN}", found[0]), text)


def filled(stored: Any, given: Any) -> Any:
    """A stored config whose hidden values come from `given`, a config with the same keys, where the rest of the value
    is the same."""
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
    """Hides secrets in the logs of a library that logs addresses and answers of servers."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub(f"?{HIDDEN}", masked_text(record.getMessage())), ()
        return True
