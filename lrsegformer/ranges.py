"""What a number that a user gives may be, in the words of messages; nan and infinity never are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrsegformer.errors import InputError


@dataclass(frozen=True)
class Range:
    """
    An interval of finite numbers, with the words by which a message asks for one of them.

    Attributes:
        words (`str`): such as `"a positive number"`.
        low (`float`), high (`float`): its ends; the upper one belongs to it where it is finite.
        above_low (`bool`): the lower end does not belong to it.
        below_high (`bool`): the upper end does not belong to it.
    """

    words: str
    low: float = 0.0
    high: float = math.inf
    above_low: bool = False
    below_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether the number lies in it; of nan and of the infinities it is never true."""
        if (
            not math.isfinite(value)
            or (self.above_low and value == self.low)
            or (self.below_high and value == self.high)
        ):
            return False
        return self.low <= value <= self.high


NOT_NEGATIVE = Range("0 or a positive number")
POSITIVE = Range("a positive number", above_low=True)
FROM_ZERO = Range("a whole number of at least 0")
COUNT = Range("a whole number of at least 1", low=1)
SHARE = Range("a share from 0 to 1", high=1)
SHARE_BELOW_ONE = Range("a number of at least 0 and below 1", high=1, below_high=True)
PART = Range("a share above 0 and at most 1", high=1, above_low=True)
# What numpy and torch both take.
SEED = Range("a whole number from 0 to 4294967295", high=2**32 - 1)


def check_ranges(arguments: Any, ranges: Mapping[str, Range]) -> None:
    """
    Refuse the first attribute that lies outside its range; `None` is left to what it stands for.

    Args:
        arguments: an object with the attributes, options of a command line.
        ranges (`Mapping[str, Range]`): by the attribute's name.

    Raises:
        [`~lrsegformer.errors.InputError`]: a number outside its range, or no number.
    """
    for name, allowed in ranges.items():
        value = getattr(arguments, name)
        if value is None:
            continue
        try:
            within = not isinstance(value, bool) and allowed.holds(value)
        except (TypeError, OverflowError):
            within = False
        if not within:
            raise InputError(f"--{name} is {value}: give {allowed.words}.")
