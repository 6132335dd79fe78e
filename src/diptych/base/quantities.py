"""Numbers with a range, for annotations: `building.build.check_arguments` checks a config against them."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
Count = Annotated[int, Ge(1)]
Bits = Annotated[int, Ge(0), Le(64)]  # of a hash
Whole = Annotated[int, Ge(0)]
