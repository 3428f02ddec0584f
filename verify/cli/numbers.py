"""Numbers that no option of any command takes: infinite, below 0, or a seed too large for a random generator."""

import math
from typing import Any

from verify.cli.needs import options_of
from verify.errors import InputError

MOST_SEED = 2**32 - 1
"""Largest seed of numpy's generators."""


def require_numbers(made: Any) -> None:
    """Raise InputError where an option of a command, as parsed, has a number that cannot be meant."""
    for name, value, _ in options_of(made):
        flag, seed = f"--{name.replace('_', '-')}", name.removesuffix("s").endswith("seed")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, bool) or not isinstance(one, (int, float)):
                continue
            if not math.isfinite(one):
                raise InputError(f"{flag} must be a finite number, got {one}. Give another, or leave {flag} out.")
            if one < 0:
                raise InputError(f"{flag} must be 0 or more, got {one}. Give another, or leave {flag} out.")
            if seed and one > MOST_SEED:
                raise InputError(f"{flag} must be at most {MOST_SEED}, got {one}. Give a smaller one.")
