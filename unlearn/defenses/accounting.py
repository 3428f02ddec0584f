"""Privacy accounting by Opacus: the noise a budget requires, and the epsilon a training has spent."""

import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from verify.errors import InputError
from verify.io.extras import missing

Accountant = Literal["rdp", "prv"]
"""Accounting method: Renyi divergences (Mironov 2017; fast), or privacy loss variables (Gopi et al. 2021; tighter, slower)."""


@dataclass(frozen=True)
class NoisePlan:
    """A plan that spends a privacy budget: constant noise over a number of steps.

    Attributes:
        noise_multiplier: sigma; the noise of a step has standard deviation sigma times the clipping norm.
        sample_rate: q, the probability that a unit is in a step.
        steps: T, the number of steps.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def require_opacus() -> None:
    """Raise InputError where Opacus is not installed."""
    try:
        import opacus  # noqa: F401
    except ImportError:
        raise missing("--defense dp (Opacus)", "dp") from None


def epsilon_of(plan: NoisePlan, delta: float, accountant: Accountant = "rdp") -> float:
    """Compute the epsilon at `delta` of T Gaussian steps with Poisson sampling, for adding or removing one unit."""
    from opacus.accountants import create_accountant

    counter: Any = create_accountant(mechanism=accountant)
    counter.history = [(plan.noise_multiplier, plan.sample_rate, plan.steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Renyi orders outside the tried range: the bound holds without them
        return float(counter.get_epsilon(delta=delta))


@cache
def plan_noise(epsilon: float, delta: float, units: int, batch: int, steps: int, accountant: Accountant = "rdp") -> NoisePlan:
    """Compute the least noise that keeps `steps` steps over `units` units within (epsilon, delta).

    Args:
        epsilon, delta: the budget.
        units: number of records (or subjects), which is treated as public.
        batch: mean number of units in a step.
        steps: optimizer steps.
        accountant: how epsilon is bounded.

    Raises:
        InputError: delta is so large that it permits revealing a whole unit, or the noise would exceed all units of a step
            together, so that nothing could be learned.
    """
    from opacus.accountants.utils import get_noise_multiplier

    if delta >= 1 / units:
        raise InputError(
            f"--target-delta {delta:g} would permit revealing one of {units} units completely. It must be below 1/{units}; "
            f"usual is {10.0 ** -math.ceil(math.log10(10 * units)):g} or less."
        )
    rate = min(1.0, batch / units)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            noise = float(
                get_noise_multiplier(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant=accountant
                )
            )
        except ValueError:
            noise = math.inf
    if noise > batch:
        reachable = epsilon_of(NoisePlan(float(batch), rate, steps), delta, accountant)
        needed = "endless noise" if math.isinf(noise) else f"noise of {noise:.1f} times the contribution of one unit"
        raise InputError(
            f"epsilon {epsilon:g} cannot be reached with {units} units in {steps} steps of {batch}: it needs {needed}, more than "
            f"all {batch} units of a step together, so nothing could be learned. Use --target-epsilon {reachable:.2g} or more, "
            "more records, fewer --epochs or a larger --batch-size."
        )
    return NoisePlan(noise, rate, steps)
