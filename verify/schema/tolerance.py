"""Schema of a comparison with a tolerance: a recorded state, numerical noise, and the power to see one forget record.

Of every part of a state (the weights, each moment of the optimizer), with the executed s, the recorded r and Euclidean distances,

    d = |r - s|,    a = max over orders of summation |s' - s|,    b = min over places |s with one forget record put back - s|

Noise elsewhere is taken to be at most `NOISE_FACTOR` a. Then an honest state has d <= 4 a, and one with the record has
d >= b - 4 a, so that both can be distinguished where b > 8 a.
"""

from typing import Literal

from pydantic import Field

from verify.io.documents import Frozen

NOISE_FACTOR = 4.0
"""Largest noise of other hardware or software, in units of the noise measured here (docs/research/reexecution.md)."""

Reading = Literal["equal", "within noise", "not testable", "different"]
"""What the comparison of a segment's end with the recorded state shows."""


class Deviation(Frozen):
    """Distances in one part of a state at the end of a segment.

    Attributes:
        part: "weights", or the name of an optimizer's moment.
        distance: distance d of the recorded state from the executed one.
        noise: largest distance a of executions that sum in another order.
        power: smallest distance b of executions with one forget record put back into one microbatch.
        clean, tainted: controls in yet another order: nothing put back, and the record of the smallest power put back.
    """

    part: str
    distance: float = Field(ge=0)
    noise: float = Field(ge=0)
    power: float = Field(ge=0)
    clean: float = Field(ge=0)
    tainted: float = Field(ge=0)

    @property
    def limit(self) -> float:
        """Largest distance that noise explains."""
        return NOISE_FACTOR * self.noise

    @property
    def testable(self) -> bool:
        """Whether one forget record would be seen above the noise, and both controls read as they must."""
        return self.noise > 0 and self.power > 2 * self.limit and self.clean <= self.limit < self.tainted

    @property
    def tolerated(self) -> float:
        """How much can hide below the limit, in units of one microbatch with one forget record."""
        return self.limit / self.power if self.power else float("inf")


def reading_of(equal: bool, deviations: tuple[Deviation, ...]) -> Reading:
    """Judge a segment by its distances.

    A distance between noise and power is neither: it does not accuse, and does not pass.

    Args:
        equal: whether the state has the recorded digests.
        deviations: one for each part; none where no tolerance was asked for.
    """
    if equal:
        return "equal"
    if not deviations:
        return "different"
    if not all(one.testable for one in deviations):
        return "not testable"
    if all(one.distance <= one.limit for one in deviations):
        return "within noise"
    return "different" if any(one.distance >= one.power - one.limit for one in deviations) else "not testable"
