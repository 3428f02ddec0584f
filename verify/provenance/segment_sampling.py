"""Sampling of training segments for re-execution: what a sample finds, and which segments are drawn.

Of M segments, k are false, and m are executed again, drawn without replacement. The probability that at least one false segment is
among them is hypergeometric:

    P(found) = 1 - C(M - k, m) / C(M, m)
"""

import hashlib
from math import comb


def detection_probability(segments: int, false: int, executed: int) -> float:
    """Compute the probability that a sample contains a false segment.

    Args:
        segments: M, at least 1.
        false: k, in [0, M].
        executed: m, in [0, M].

    Raises:
        ValueError: a number is out of range.
    """
    if segments < 1 or not 0 <= false <= segments or not 0 <= executed <= segments:
        raise ValueError(f"expected 0 <= false, executed <= segments >= 1, got {false}, {executed} and {segments}")
    return 1 - comb(segments - false, executed) / comb(segments, executed)


def fewest_found(segments: int, executed: int, probability: float) -> int | None:
    """Return the smallest number of false segments that a sample finds with this probability; None if it finds none so often."""
    return next((k for k in range(1, segments + 1) if detection_probability(segments, k, executed) >= probability), None)


def sample_size(segments: int, false: int, probability: float) -> int:
    """Return the smallest sample that finds one of `false` false segments with this probability; all of them if none is false."""
    if not false:
        return segments
    return next(m for m in range(segments + 1) if m == segments or detection_probability(segments, false, m) >= probability)


def drawn_segments(segments: int, executed: int, nonce: str, root: str) -> tuple[int, ...]:
    """Draw segments without replacement: those with the smallest SHA-256 of nonce, root and index, in ascending order.

    The root is fixed before the nonce is drawn, so that whoever made the schedule could not know the draw.

    Args:
        segments, executed: M and m, 0 <= m <= M.
        nonce: the auditor's random text.
        root: root of the commitment.
    """
    order = sorted(range(segments), key=lambda index: hashlib.sha256(f"{nonce}\x00{root}\x00{index}".encode()).digest())
    return tuple(sorted(order[:executed]))
