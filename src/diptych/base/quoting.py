"""How an override is typed: its value quoted for Hydra's grammar, and all of it for the shell.

Every message that says what to type takes it from here, so that it works when it is pasted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

_AS_IT_IS = re.compile(r"[\w/.+%@*?-]+( [\w/.+%@*?-]+)*", re.ASCII)  # text that Hydra reads as that text,
_OTHERWISE = re.compile(r"true|false|null|[+-]?(inf|nan|\.?\d[\d_.]*(e[+-]?\d+)?)", re.IGNORECASE)  # but for these
_READ_IN_QUOTES = re.compile(r'["$`!]|\\(?:\\|$)')  # what a shell reads in double quotes, too
_SAFE = re.compile(r"[\w/.+%@:=,~-]+", re.ASCII)  # what no shell reads


def to_type(key: str, value: Any) -> str:
    """`key=value` as one types it in a shell, such that Hydra reads this value: text, a number, null, a list or a
    mapping of them."""
    return shell(f"{key}={hydra(value)}")


def shell(argument: str) -> str:
    """An argument as one types it in a shell, with the quotes that are easiest to read."""
    body = argument[1:] if argument.startswith("~") else argument  # ~key deletes; the shell knows no such home
    if _SAFE.fullmatch(body) and "=~" not in body:
        return argument
    if "'" not in argument:
        return f"'{argument}'"
    return shlex.quote(argument) if _READ_IN_QUOTES.search(argument) else f'"{argument}"'


def hydra(value: Any) -> str:
    """A value as Hydra's grammar has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{hydra(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra, value))}]"
    text = str(value)
    if _AS_IT_IS.fullmatch(text) and not _OTHERWISE.fullmatch(text):
        return text
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", text)  # backslashes before a quote would be taken with it
    return "'" + doubled.replace("'", "\\'") + "'"
