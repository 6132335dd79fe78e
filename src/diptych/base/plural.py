"""Numbers of things, as one says them."""


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`1 pair`, `2,000 pairs`. things: a plural that takes more than an s"""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
