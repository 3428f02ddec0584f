"""Simulated audits by a level table: how often its rule certifies and accuses honest deletions and models that kept records.

A record's never-trained loss is mu_i. A model trained on all the data gives m_i = mu_i + M + e_i, with M common to the model and
e_i its own; a pool model, trained on a part of it, m_i(k) = level + slope mu_i + M_k + e_ik, about the records' mean difficulty.
Records of one subject share a part of mu and of e. The original lies lower by the record's gap g_i on forget records.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verify.statistics.channels import EXACT_TEXT
from verify.statistics.intervals import clopper_pearson
from verify.statistics.level_contrast import TableLosses
from verify.statistics.level_table import TableVerdict, judge_table
from verify.statistics.simulation import RuleRates

Array = NDArray[np.float64]

MEAN_DIFFICULTY = 3.0


@dataclass(frozen=True)
class TableWorld:
    """Parameters of a simulated world with a level table.

    Attributes:
        subjects: n_F, of `each` records; control_subjects: n_C, of `control_each`.
        models, left_out: M pool models, of which R leave each subject out.
        gap: mean g_i, nats per token (coefficient of variation one third).
        record_spread: mean standard deviation of e, nats per token; a record's own is 0.5 to 1.5 times it.
        model_spread: standard deviation of M, nats per token.
        correlation: share of the variance of mu and of e that the records of one subject have in common.
        difficulty_spread: standard deviation of mu, nats per token.
        pool_level, pool_slope: level and slope of pool models against those trained on all the data.
        mismatch: standard deviation of a record's own difference between the two, nats per token.
        errors: distribution of e; "t4" has heavy tails (scaled to the same standard deviation).
        target_noise, control_noise: factors on the target's e, and on the controls' under every model.
        harder: how much harder forget records are than controls, nats per token.
        growth: factor on a record's e per nat of its difficulty; 1 where hard records are no noisier than easy ones.
        duplicates: share of the forget subjects of which other people's records, in the retain set, repeat a part: whoever was
            trained on these knows `DUPLICATE_SHARE` of the gap.
    """

    subjects: int = 20
    each: int = 4
    control_subjects: int = 20
    control_each: int = 4
    models: int = 8
    left_out: int = 4
    gap: float = 4.05
    record_spread: float = 0.45
    model_spread: float = 0.045
    correlation: float = 0.3
    difficulty_spread: float = 1.0
    pool_level: float = 0.25
    pool_slope: float = 0.8
    mismatch: float = 0.0
    errors: Literal["normal", "t4"] = "normal"
    target_noise: float = 1.0
    control_noise: float = 1.0
    harder: float = 0.0
    growth: float = 1.0
    duplicates: float = 0.0


DUPLICATE_SHARE = 0.16
"""Share of a record's gap that a model knows from near-duplicates of it."""

Truth = Literal["honest", "20 % of the records", "one subject", "0.20 everywhere", "the margin"]
"""What the target kept: nothing, everything of a fifth of the records or of one subject, a fifth or a tenth of every gap."""

EVERYWHERE = {"0.20 everywhere": 0.20, "the margin": 0.10}


def simulate_table(world: TableWorld, truth: Truth, rng: np.random.Generator) -> tuple[TableLosses, list[str], list[str]]:
    """Draw one audit: losses, whom the forget records are about, and the controls.

    Args:
        world: how models and records vary.
        truth: what the target kept.
        rng: source of randomness.
    """
    sizes = np.repeat([world.each, world.control_each], [world.subjects, world.control_subjects])
    count, total, people = world.subjects * world.each, int(sizes.sum()), np.repeat(np.arange(len(sizes)), sizes)
    shared = partial(_shared, world, rng, people)
    difficulty = MEAN_DIFFICULTY + world.difficulty_spread * shared(1, "normal")[0]
    difficulty[:count] += world.harder
    spread = world.record_spread * rng.uniform(0.5, 1.5, total)
    spread[count:] *= world.control_noise
    spread *= world.growth ** (difficulty - MEAN_DIFFICULTY)
    gaps = world.gap * rng.gamma(9.0, 1 / 9, count)

    def models(number: int) -> Array:
        return world.model_spread * rng.standard_normal((number, 1)) + spread * shared(number, world.errors)

    level = MEAN_DIFFICULTY + world.pool_level + world.pool_slope * (difficulty - MEAN_DIFFICULTY)
    pool = level + world.mismatch * rng.standard_normal(total) + models(world.models)
    original = difficulty + models(1)[0]
    target = difficulty + world.target_noise * models(1)[0]
    design = rng.permuted(np.tile(np.arange(world.models) < world.left_out, (world.subjects, 1)), axis=1)
    left_out = np.repeat(design, world.each, axis=0).T
    repeated = np.repeat(np.arange(world.subjects) < round(world.duplicates * world.subjects), world.each)
    known = DUPLICATE_SHARE * gaps * repeated
    # The duplicates are other subjects' records: every model that was trained on all data saw them, a pool model by chance.
    chance = rng.random((world.models, world.subjects)) < 1 - world.left_out / world.models
    pool[:, :count] -= known * np.repeat(chance, world.each, axis=1)
    kept = _kept(world, truth, rng)
    original[:count] -= gaps
    target[:count] -= np.maximum(kept * gaps, known)
    losses = TableLosses(
        pool=np.where(left_out, pool[:, :count], np.nan),
        control_pool=pool[:, count:],
        original=original[:count],
        target=target[:count],
        control_original=original[count:],
        control_target=target[count:],
    )
    names = [f"{number:05d}" for number in people.tolist()]
    return losses, names[:count], names[count:]


def _shared(world: TableWorld, rng: np.random.Generator, people: NDArray[np.intp], number: int, errors: str) -> Array:
    """Draw standardised values that correlate within subjects, whose numbers `people` holds [number, records]."""
    size = (number, len(people))
    # t4 has variance 2, hence the division by sqrt(2).
    own = rng.standard_normal(size) if errors == "normal" else rng.standard_t(4, size) / np.sqrt(2.0)
    common = rng.standard_normal((number, int(people[-1]) + 1))[:, people]
    return np.asarray(np.sqrt(world.correlation) * common + np.sqrt(1 - world.correlation) * own)


def _kept(world: TableWorld, truth: Truth, rng: np.random.Generator) -> Array:
    """Draw the share of its gap that the target keeps of every forget record."""
    count = world.subjects * world.each
    kept = np.zeros(count)
    if truth == "20 % of the records":
        kept[rng.permutation(count)[: max(1, round(0.2 * count))]] = 1.0
    elif truth == "one subject":
        kept[: world.each] = 1.0
    elif truth in EVERYWHERE:
        kept[:] = EVERYWHERE[truth]
    return kept


def judge_simulated(
    world: TableWorld, truth: Truth, rng: np.random.Generator, margin: float = 0.10, alpha: float = 0.05
) -> TableVerdict:
    """Draw one audit and judge it."""
    losses, subjects, control_subjects = simulate_table(world, truth, rng)
    return judge_table({EXACT_TEXT: losses}, subjects, control_subjects, margin, alpha, int(rng.integers(2**32)))


def table_rates(
    world: TableWorld, truth: Truth = "honest", *, margin: float = 0.10, alpha: float = 0.05, audits: int = 200, seed: int = 0
) -> RuleRates:
    """Estimate by simulation how often an audit by a level table certifies and accuses.

    Args:
        world, truth: as `simulate_table`.
        margin, alpha: as `judge_table`.
        audits: number of simulated audits, at least 1.
        seed: seed of the random generator.

    Returns:
        both rates with their exact 95 % intervals.

    Raises:
        ValueError: no subject, no record, no audit, more models left out than there are, or as `judge_table`.
    """
    if min(world.subjects, world.each, world.control_each, audits) < 1 or not 1 <= world.left_out <= world.models:
        raise ValueError(
            f"at least 1 subject, record and audit are needed, and 1 to M models left out; got {world.subjects}, {world.each}, "
            f"{audits}, and {world.left_out} of {world.models}"
        )
    rng = np.random.default_rng(seed)
    verdicts = [judge_simulated(world, truth, rng, margin, alpha) for _ in range(audits)]
    certified, accused = (sum(getattr(verdict, name) for verdict in verdicts) for name in ("certified", "accused"))
    return RuleRates(clopper_pearson(certified, audits, 0.95), clopper_pearson(accused, audits, 0.95))
