"""Values of a run's files, which are not trusted: each is read as the type that it should have, and written for the
page.

What is not a number becomes nan, and a dash on the page.
"""

import base64
import binascii
import math
from collections.abc import Iterable
from typing import Any


def number(value: Any) -> float:
    """A finite number as float, anything else as nan."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else math.nan


def mapping(value: Any) -> dict[str, Any]:
    """A dict as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def mappings(value: Any) -> list[dict[str, Any]]:
    """The dicts in a list; empty for anything else."""
    return [item for item in listed(value) if isinstance(item, dict)]


def ends(value: Any) -> tuple[float, float]:
    """The two ends of an interval."""
    return (number(value[0]), number(value[1])) if len(listed(value)) == 2 else (math.nan, math.nan)


def numbers(values: Iterable[Any]) -> list[float]:
    """Those of some values that are numbers."""
    return [value for value in map(number, values) if not math.isnan(value)]


def mean(values: list[float]) -> float:
    """nan of none."""
    return sum(values) / len(values) if values else math.nan


def percent(share: Any, digits: int = 1) -> str:
    """0.5871 -> "58.7"."""
    value = number(share)
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"


def gain(points: Any) -> str:
    """-0.0123 -> "−1.2": points in per cent with their sign."""
    value = number(points)
    return "–" if math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def count(value: Any) -> str:
    """1234567 -> "1,234,567"."""
    value = number(value)
    return "–" if math.isnan(value) else f"{value:,.0f}"


def decimal(value: Any) -> str:
    """0.31416 -> "0.31"."""
    value = number(value)
    return "–" if math.isnan(value) else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Seconds -> "45 s", "4 min 52 s", "7 h 03 min"."""
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def picture(data: Any) -> str:
    """Base64 of a WebP or PNG file -> a data URI; "" for anything else, which the page shows as a blank."""
    try:
        head = base64.b64decode(data, validate=True)[:12]
    except (TypeError, ValueError, binascii.Error):
        return ""
    kind = "webp" if head[:4] == b"RIFF" and head[8:] == b"WEBP" else "png" if head[:4] == b"\x89PNG" else ""
    return f"data:image/{kind};base64,{data}" if kind else ""
