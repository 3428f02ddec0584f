"""Draw of the segments that are executed: by the auditor's nonce, as many as find a false one with a given probability."""

import secrets
from typing import Literal

from verify.errors import InputError
from verify.provenance.segment_sampling import detection_probability, drawn_segments, fewest_found, sample_size
from verify.reexecution.plans import Plan
from verify.schema.reexecution import Draw


def draw_segments(plan: Plan, wanted: int | Literal["all"] | None, nonce: str | None) -> tuple[Draw, list[int]]:
    """Choose the segments to execute, as indices into the plan's.

    Args:
        plan: all segments.
        wanted: how many, or "all"; None executes all where a part of a training was repeated, else as many as find one false
            segment among those that held a forget record with 99 %.
        nonce: random text of the auditor's; None draws one.

    Raises:
        InputError: there are not as many segments as are wanted.
    """
    count, held = len(plan.segments()), plan.forget_segments
    size = count
    if isinstance(wanted, int):
        if count and not 1 <= wanted <= count:
            raise InputError(f"--segments {wanted} cannot be: there are {count}. Give a number from 1 to {count}, or all.")
        size = min(wanted, count)  # where the logs contradict the deletion, there are none
    elif wanted is None and plan.kind == "own schedule" and count:
        size = sample_size(count, min(count, held or 1), 0.99)
    sampled = size < count
    drawn = (nonce or secrets.token_hex(16)) if sampled else None
    chosen = list(range(count)) if drawn is None else list(drawn_segments(count, size, drawn, plan.root or plan.final or ""))
    found = None if held is None or not count else detection_probability(count, min(held, count), size)
    limits = [fewest_found(count, size, level) if count else None for level in (0.95, 0.99)]
    draw = Draw(
        nonce=drawn,
        given=sampled and nonce is not None,
        false_found_95=limits[0],
        false_found_99=limits[1],
        forget_segments=held,
        found=found,
    )
    return draw, chosen
