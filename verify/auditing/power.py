"""Power analysis: what an audit of a given size can show, and how large it has to be."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from verify.errors import InputError
from verify.judging.sibling_claim import shards_needed
from verify.schema.alpha_spending import level_of
from verify.schema.settings import Settings
from verify.statistics.level_fit import MIN_CONTROL_SUBJECTS, MIN_MODELS
from verify.statistics.level_simulation import TableWorld, Truth, table_rates
from verify.statistics.one_run import one_run_epsilon
from verify.statistics.planner import conformal_power, controls_for_rate, required_sample_size
from verify.statistics.shard_siblings import sibling_power
from verify.statistics.simulation import World, rule_rates

REFERENCE_COUNTS = (2, 3, 4, 6, 8, 12, 16)
CONTROL_SUBJECTS = (10, 20, 40, 80, 160)
"""Numbers of control subjects that are tried for a level table."""
USUAL_POWER = 0.80
AUDITS = 100
"""Simulated audits per rate."""
RIGHT_GUESSES = 0.95
"""Share of correct guesses when nearly every canary is still remembered."""


@dataclass(frozen=True)
class PowerRow:
    """The power of one claim at the given size, and the size it needs.

    Attributes:
        claim: in plain words.
        given: what the given sizes can show.
        needed: the size that shows it with 80 % probability.
    """

    claim: str
    given: str
    needed: str


def power_table(
    *,
    forget: int,
    controls: int = 0,
    references: int = 0,
    canaries: int = 0,
    pool: int = 0,
    shards: int = 0,
    per_subject: int = 1,
    world: World | None = None,
    settings: Settings,
) -> list[PowerRow]:
    """Compute what given numbers of forget records, controls, references, canary pairs and pool models can show.

    Args:
        forget, controls, references, canaries: sizes; 0 for none.
        pool: M, models of a level table, half of which leave each subject out; 0 for no table.
        shards: S, shards of the model, among which a rebuilt one is ranked; 0 for none.
        per_subject: records of a subject, forget set and controls alike; only a level table counts by subject.
        world: how models and records vary; its sizes are replaced by the given ones. The default spreads and gap are those of
            small models fine-tuned on questions and answers; use your own once a first audit has measured them.
        settings: margin, alpha, q and epsilon*.

    Raises:
        InputError: no forget record, a negative size, one shard, or a pool whose halves have fewer than two models.
    """
    if forget < 1 or min(controls, references, canaries) < 0:
        raise InputError(
            f"--forget must be at least 1 and no size negative; got --forget {forget} --controls {controls} "
            f"--references {references} --canaries {canaries}."
        )
    world = replace(world or World(), records=forget)
    return [
        *reference_rows(world, references, settings),
        *(level_table_rows(_table_world(world, controls, pool, per_subject), settings) if pool else ()),
        *(shard_rows(world, shards, settings) if shards else ()),
        *control_rows(forget, controls, settings),
        *canary_rows(canaries, settings),
        *attack_rows(min(forget, controls), settings),
    ]


def _table_world(world: World, controls: int, pool: int, per_subject: int) -> TableWorld:
    if pool < 2 * MIN_MODELS or pool % 2 or per_subject < 1:
        raise InputError(
            f"A level table has an even number of at least {2 * MIN_MODELS} models, and a subject at least one record; got "
            f"--level-table {pool} --per-subject {per_subject}."
        )
    return TableWorld(
        subjects=max(1, world.records // per_subject),
        each=min(per_subject, world.records),
        control_subjects=controls // per_subject,
        control_each=per_subject,
        models=pool,
        left_out=pool // 2,
        gap=world.gap,
        record_spread=world.record_spread,
        model_spread=world.model_spread,
    )


def _accusing(settings: Settings) -> float:
    """Return the level of accusations: where several audits share controls, the share of alpha of one that was planned for."""
    return level_of(settings.alpha, settings.expected_audits, 1)


def reference_rows(world: World, references: int, settings: Settings) -> list[PowerRow]:
    """Simulate how often R retrained references certify and accuse."""
    cases = [
        ("retrained references: certify an honest retraining", 0.0, True),
        ("retrained references: accuse a model that keeps 20 % of the records", 0.20, False),
        ("retrained references: accuse a model that keeps one record", 1 / world.records, False),
    ]
    if world.records == 1:
        del cases[1]  # one record has no 20 % share
    return [_reference_row(claim, world, references, settings, remembered, certify) for claim, remembered, certify in cases]


def level_table_rows(world: TableWorld, settings: Settings) -> list[PowerRow]:
    """Simulate how often an audit by a level table certifies and accuses.

    Args:
        world: sizes of the forget set, the controls and the pool, and how models and records vary.
        settings: margin and alpha.
    """
    accused: list[tuple[str, Truth]] = [
        ("accuse a model that keeps 20 % of the records", "20 % of the records"),
        ("accuse a model that keeps one subject", "one subject"),
    ]
    honest = "level table: certify an honest deletion"
    if world.subjects == 1:
        alone = "cannot: one subject can be accused, never certified"
        first = PowerRow(honest, alone, "an exact rebuild that is executed again")
    else:
        first = _level_table_row(honest, world, settings, "honest", certify=True)
    return [first, *(_level_table_row(f"level table: {claim}", world, settings, truth, certify=False) for claim, truth in accused)]


def _level_table_row(claim: str, world: TableWorld, settings: Settings, truth: Truth, certify: bool) -> PowerRow:
    def rate(count: int) -> float:
        of_world = replace(world, control_subjects=count)
        alpha = settings.alpha if certify else _accusing(settings)
        rates = table_rates(of_world, truth, margin=settings.margin, alpha=alpha, audits=AUDITS)
        return (rates.certified if certify else rates.accused).value

    enough = world.control_subjects >= MIN_CONTROL_SUBJECTS
    given = (
        f"{rate(world.control_subjects):.0%} of audits" if enough else f"cannot: fewer than {MIN_CONTROL_SUBJECTS} control subjects"
    )
    place = bisect_left(CONTROL_SUBJECTS, True, key=lambda count: rate(count) >= USUAL_POWER)
    found = place < len(CONTROL_SUBJECTS)
    needed = f"{CONTROL_SUBJECTS[place]} control subjects" if found else f"more than {CONTROL_SUBJECTS[-1]} control subjects"
    return PowerRow(claim, given, needed)


def _reference_row(claim: str, world: World, references: int, settings: Settings, remembered: float, certify: bool) -> PowerRow:
    def rate(count: int) -> float:
        alpha = settings.alpha if certify else _accusing(settings)
        return _rule_rate(replace(world, references=count), remembered, certify, settings.margin, alpha)

    given = "cannot: one reference has no spread" if references < 2 else f"{rate(references):.0%} of audits"
    # Power grows with the number of references, so bisection skips half of the simulations.
    place = bisect_left(REFERENCE_COUNTS, True, key=lambda count: rate(count) >= USUAL_POWER)
    enough = place < len(REFERENCE_COUNTS)
    needed = f"{REFERENCE_COUNTS[place]} references" if enough else f"more than {REFERENCE_COUNTS[-1]} references"
    return PowerRow(claim, given if references else "cannot: no references", needed)


@lru_cache(maxsize=64)
def _rule_rate(world: World, remembered: float, certify: bool, margin: float, alpha: float) -> float:
    rates = rule_rates(world, remembered=remembered, margin=margin, alpha=alpha, audits=AUDITS)
    return (rates.certified if certify else rates.accused).value


def shard_rows(world: World, shards: int, settings: Settings) -> list[PowerRow]:
    """Compute how often the rank of a rebuilt shard accuses; it certifies nothing.

    Args:
        world: how losses vary between shards: as between retrainings. These do not differ in their data, as shards do, so shards
            vary more, and accuse no more often than this.
        shards: S.
        settings: margin and alpha.
    """
    if shards < 2:
        raise InputError(f"A rebuilt shard is ranked among others: --shards is at least 2, got {shards}.")
    alpha, spread = _accusing(settings), float(np.hypot(world.model_spread, world.record_spread / np.sqrt(world.records)))
    needed = shards_needed(1, alpha)

    def rate(count: int, kept: float) -> float:
        return sibling_power(count, kept, world.gap, spread, settings.margin, alpha)

    rows = []
    for kept in (0.20, 1.0):
        given = f"cannot: p-values of {shards} shards are at least 1 / {shards}"
        if shards >= needed:
            given = f"{rate(shards, kept):.0%} of audits"
        place = next((f"{count} shards" for count in (needed, 2 * needed, 4 * needed) if rate(count, kept) >= USUAL_POWER), None)
        claim = f"shard siblings: accuse a rebuilt shard that keeps {kept:.0%} of what it had memorized"
        rows.append(PowerRow(claim, given, place or f"more than {4 * needed} shards"))
    return [
        *rows,
        PowerRow("shard siblings: certify an honest rebuild", "cannot: a rank certifies nothing", "retrained references"),
    ]


def control_rows(forget: int, controls: int, settings: Settings) -> list[PowerRow]:
    """Compute what held-out controls can reject."""
    # Benjamini-Hochberg rejects a lone record at q / (2 K) on its side: the smallest conformal p-value must reach that.
    lone = int(np.ceil(2 * forget / _accusing(settings))) - 1
    given = "cannot: no controls"
    if controls:
        smallest = 1 / (controls + 1)
        given = f"p-values down to {smallest:.4f}; a lone record {'can' if controls >= lone else 'cannot'} be rejected"
    power = f"{conformal_power(1.0, controls):.0%} power" if controls else "cannot: no controls"
    return [
        PowerRow("held-out controls: accuse a single record of the set", given, f"{lone} controls"),
        PowerRow("held-out controls: detect a residual of one standard deviation in one record", power, "retrained references"),
    ]


def canary_rows(pairs: int, settings: Settings) -> list[PowerRow]:
    """Compute the bounds that canary pairs can give."""
    claim = f"canaries: show a leak beyond {settings.epsilon:g} nats where {RIGHT_GUESSES:.0%} of the assignments are guessed"

    def shown(guesses: int) -> float:
        correct = round(RIGHT_GUESSES * guesses)
        return one_run_epsilon(guesses, guesses, correct, settings.delta, settings.alpha / 2).epsilon

    guesses = min(pairs, settings.canary_guesses)
    given = f"{guesses} guesses: a lower bound of {shown(guesses):.2f} nats" if pairs else "cannot: no canaries"
    enough = next((count for count in range(4, 2001) if shown(count) > settings.epsilon), None)
    return [PowerRow(claim, given, f"{enough} guesses" if enough else "another --epsilon: no number of guesses shows that much")]


def attack_rows(arm: int, settings: Settings) -> list[PowerRow]:
    """Compute what an attack on a given number of records per side can claim."""
    rows = []
    for bound in (0.05, 0.10):
        needed = required_sample_size("auc", bound, alpha=settings.alpha)
        rows.append(_arm(f"attack: AUC within {bound:g} of one half, by two one-sided tests", arm, needed))
    for rate in settings.fpr:
        needed = required_sample_size("epsilon", 1.0, fpr=rate, alpha=settings.alpha)
        rows.append(_arm(f"attack: log(TPR / FPR) at most 1 at a false-positive rate of {rate:g}", arm, needed))
        rows.append(_arm(f"attack: any claim at a false-positive rate of {rate:g}", arm, controls_for_rate(rate), "controls"))
    return rows


def _arm(claim: str, arm: int, needed: int, unit: str = "per arm") -> PowerRow:
    given = f"can, with {arm}" if arm >= needed else f"cannot, with {arm}" if arm else "cannot: no controls"
    return PowerRow(claim, given, f"{needed:,} {unit}")
