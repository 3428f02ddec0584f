"""Simulated audits: how often the decision rule certifies and accuses honest retrainings and models that kept records.

Losses follow a random-effects model: under retraining r, record i has mu_i + M_r + e_ri nats per token, where M_r is common to
the whole model (its seed) and e_ri belongs to the record under that model. The original's loss is lower by the record's gap g_i,
which varies between records.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verify.statistics.estimate import Estimate
from verify.statistics.intervals import clopper_pearson
from verify.statistics.residual import residual_verdict

Array = NDArray[np.float64]
Errors = Literal["normal", "t4"]


@dataclass(frozen=True)
class World:
    """Parameters of a simulated world: how models and records vary.

    Attributes:
        records: K.
        references: R, the number of honest retrainings.
        gap: mean g_i: how much lower the original's loss on a record is than a retraining's, nats per token.
        record_spread: mean standard deviation of e_ri, nats per token; a record's own is 0.5 to 1.5 times it.
        model_spread: standard deviation of M_r, nats per token.
        errors: distribution of e_ri; "t4" has heavy tails (scaled to the same standard deviation).
    """

    records: int = 100
    references: int = 4
    gap: float = 2.2
    record_spread: float = 0.15
    model_spread: float = 0.04
    errors: Errors = "normal"


@dataclass(frozen=True)
class RuleRates:
    """Rates at which the rule certifies and accuses over a number of simulated audits."""

    certified: Estimate
    accused: Estimate


def simulate_losses(world: World, remembered: float, hidden: bool, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Simulate one audit's losses: original [K], target [K], references [R, K], nats per token.

    Args:
        world: how models and records vary.
        remembered: share of the records of which the target keeps the original's full gap.
        hidden: whether the others are over-forgotten just enough to make the mean residual zero.
        rng: source of randomness.
    """
    count = world.records
    # Gamma(9) has a coefficient of variation of one third: mean 3 for the difficulty, mean `gap` for the gaps.
    spread = world.record_spread * rng.uniform(0.5, 1.5, count)
    difficulty = rng.gamma(9.0, 1 / 3, count)
    gaps = world.gap * rng.gamma(9.0, 1 / 9, count)

    def retraining() -> Array:
        # t4 has variance 2, hence the division by sqrt(2).
        own = rng.standard_normal(count) if world.errors == "normal" else rng.standard_t(4, count) / np.sqrt(2.0)
        return np.asarray(difficulty + world.model_spread * rng.standard_normal() + spread * own)

    references = np.stack([retraining() for _ in range(world.references)])
    original, target = retraining() - gaps, retraining()
    # A remembered record has the original's gap below its retrained loss; hiding spreads the same total over the others, upwards.
    kept = rng.permutation(count)[: round(remembered * count)]
    others = np.setdiff1d(np.arange(count), kept)
    target[kept] -= gaps[kept]
    if hidden and len(kept) and len(others):
        target[others] += gaps[kept].sum() / len(others)
    return original, target, references


def rule_rates(
    world: World,
    *,
    remembered: float = 0.0,
    hidden: bool = False,
    margin: float = 0.10,
    alpha: float = 0.05,
    audits: int = 200,
    seed: int = 0,
) -> RuleRates:
    """Estimate by simulation how often the decision rule certifies and accuses.

    Args:
        world, remembered, hidden: as `simulate_losses`.
        margin, alpha: as `residual_verdict`.
        audits: number of simulated audits, at least 1.
        seed: seed of the random generator.

    Returns:
        both rates with their exact 95 % intervals.

    Raises:
        ValueError: no record, fewer than two references, no audit, or a share outside [0, 1].
    """
    if world.records < 1 or world.references < 2 or not 0 <= remembered <= 1 or audits < 1:
        raise ValueError(
            f"at least 1 record, 2 references and 1 audit, and a share in [0, 1], are needed; got {world.records}, "
            f"{world.references}, {audits} and {remembered}"
        )
    rng = np.random.default_rng(seed)
    certified = accused = 0
    for _ in range(audits):
        verdict = residual_verdict(*simulate_losses(world, remembered, hidden, rng), margin, alpha)
        accused += verdict.accused
        certified += verdict.certified and not verdict.accused
    return RuleRates(clopper_pearson(certified, audits, 0.95), clopper_pearson(accused, audits, 0.95))
