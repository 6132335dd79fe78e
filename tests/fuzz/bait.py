"""What hostile input asks to have called: it notes the call and does no harm. Nothing of ours imports it."""

from __future__ import annotations

from typing import Any

CALLS: list[Any] = []


def called(*arguments: Any, **named: Any) -> Any:
    CALLS.append((arguments, named))
    return None


class Called:
    """As a class, in case that functions are told from classes."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        CALLS.append((arguments, named))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        CALLS.append((arguments, named))
        return None
