"""Power of an audit against the very references, or the level table, that will judge it: how often an honest target is certified.

Known before anything is unlearned. Honest targets are drawn from how far these references differ, or from what the original loses
on controls (`verify.statistics.honest_targets`), and judged as the audit would judge them, by all ways of asking and with every
gate. Gates that do not depend on the target, such as the positive control, are checked once: one that fails lets no target pass.

Canaries, held-out controls and fresh texts can accuse an honest target, too, each with at most its share of alpha; they are not
simulated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verify.judging.alpha_shares import Shares
from verify.judging.attack_results import utility_ratio
from verify.judging.gates import MIN_REFERENCES, utility_gate
from verify.judging.level_table_claim import TableInput, controls_gate, table_claim
from verify.judging.protocol import Aside
from verify.judging.record_claim import RecordClaim, ReferenceTests, record_claim
from verify.judging.user_level_claim import whose
from verify.schema.parts import Gate, SetRole
from verify.schema.settings import Settings
from verify.scores.table import EXACT_TEXT, ScoreBlock, ScoreTable
from verify.statistics.estimate import Estimate
from verify.statistics.honest_targets import Losses, Spread, honest_models, honest_table_target, table_spreads
from verify.statistics.intervals import clopper_pearson
from verify.statistics.level_contrast import TableLosses
from verify.statistics.subjects import subject_numbers

Array = NDArray[np.float64]
Blocks = dict[tuple[str, SetRole], ScoreBlock]

DRAWS = 200
"""Simulated targets."""
ROUGH_DRAWS = 60
"""Those for each number of references that is tried."""
USUAL_POWER = 0.80
MORE_REFERENCES = (4, 6, 8, 12, 16)
OF_THE_TARGET = ("noise of the target", "target among references", "controls unseen", "utility")
"""Gates that every target passes or fails by itself."""
JUDGED: tuple[SetRole, ...] = ("forget", "holdout", "retain")


@dataclass(frozen=True)
class MeasuredPower:
    """How often an honest target would be certified and accused.

    Attributes:
        certified, accused: shares of the simulated targets, with their exact 95 % intervals; gates that no target can pass aside.
        obstacles: those gates. Where there is one, nothing is certified, however honest the target.
        needed: number of references with which at least 80 % would be certified, as far as these show; None where they are enough,
            where not even the largest number that was tried is, or where a level table judges.
    """

    certified: Estimate
    accused: Estimate
    obstacles: tuple[Gate, ...] = ()
    needed: int | None = None

    @property
    def words(self) -> str:
        """The share in words, or what keeps every target from being certified."""
        if self.obstacles:
            first = self.obstacles[0]
            return f"no honest deletion would be certified: {first.name}: {first.reason.rstrip('.')}"
        share = self.certified
        return (
            f"{share.value:.0%} of simulated honest deletions are certified [{share.low:.0%}, {share.high:.0%}], and "
            f"{self.accused.value:.0%} accused"
        )


def power_by_references(table: ScoreTable, settings: Settings, aside: Aside, *, approximate: bool = False) -> MeasuredPower:
    """Simulate an audit by retrained references, by rule 2.

    Args:
        table: scores of "original", "reference 1", "reference 2", ... on the forget set and, where present, on the holdout and
            retain sets. A target's are not read.
        settings: as registered.
        aside: what the verdict needs besides, of which the blind baseline is read.
        approximate: whether the target will be made from the original's weights, so that it keeps their utility.

    Raises:
        ValueError: fewer than two references, or scores that do not fit together.
        KeyError: a model was not scored on the forget set.
    """
    references = [label for label in table.models() if label.startswith("reference")]
    if len(references) < 2:
        raise ValueError(f"one reference shows no spread; expected at least 2, got {len(references)}")
    drawn, rng = _ReferenceDraws.of(table, references, approximate), np.random.default_rng(settings.seed)
    first = drawn.table(1, rng)
    shares = Shares.of(first, settings, len(references), aside.account)
    shared, spends = shares.of_a_claim, shares.spends
    obstacles = _obstacles(record_claim(first, references, shared, aside.blind, spends), utility_of(first, references, shared))
    tests = _tests(first, references, spends)
    found = _rates([_outcome(drawn.table(1, rng), references, tests, shared) for _ in range(DRAWS)], obstacles)
    if obstacles or found.certified.value >= USUAL_POWER:
        return found
    return replace(found, needed=_needed(drawn, len(references), shared, spends))


def power_by_table(table: ScoreTable, settings: Settings, aside: Aside) -> MeasuredPower:
    """Simulate an audit by a level table; its utility is taken to be the original's.

    Args:
        table: scores of "original" and the pool on the forget and holdout sets, and of "original" on the retain set, if there is
            one.
        settings: as registered, of rule 3 or 4.
        aside: the table's facts, the registration, and the permutation p-value of the blind baseline.

    Raises:
        ValueError: there are no facts about the table, or its numbers do not fit together.
        KeyError: the original or the pool was not scored on a set.
    """
    if aside.level_table is None:
        raise ValueError("an audit by a level table needs the facts about its level table")
    rng, start = np.random.default_rng(settings.seed), _with_target(table, {})
    shares = Shares.of(start, settings, 0, aside.account)
    shared, spends = shares.of_a_claim, shares.spends
    asked = TableInput.of(start, aside.level_table.seed, spends)
    sides = asked.subjects, asked.controls
    spreads = table_spreads(asked.losses, *sides, asked.seed)
    if EXACT_TEXT not in spreads:
        raise ValueError("the level table has too few controls to be calibrated")

    def draw() -> TableInput:
        return replace(asked, losses=honest_table_target(asked.losses, spreads, *sides, rng))

    first = _with_target(table, _losses_of(draw().losses))
    claim = table_claim(first, shared, aside.level_table, aside.registered, aside.blind_p, spends)
    obstacles = _obstacles(claim, utility_of(first, (), shared))
    if claim.target is None:  # without enough controls nothing is judged
        nothing = clopper_pearson(0, DRAWS, 0.95)
        return MeasuredPower(nothing, nothing, obstacles)
    return _rates([_outcome_by_table(draw(), shared) for _ in range(DRAWS)], obstacles)


def utility_of(table: ScoreTable, references: Sequence[str], settings: Settings) -> Gate:
    """Check the target's utility as an audit does, against the references or the model before unlearning."""
    ratio = utility_ratio(table, references, settings)
    if references:
        return utility_gate(ratio, "the retrained references", settings, settings.utility_ceiling)
    return utility_gate(ratio, "the model before unlearning", settings)


def _tests(table: ScoreTable, references: Sequence[str], spends: float) -> tuple[ReferenceTests, ...]:
    """Return the tests at a share of alpha and, where that is less, those at all of it, which a certificate passes as well."""
    return tuple(ReferenceTests.of(table, references, share) for share in dict.fromkeys((spends, 1.0)))


def _outcome(table: ScoreTable, references: Sequence[str], tests: Sequence[ReferenceTests], settings: Settings) -> str:
    """Judge a simulated target; gates that do not depend on it count as passed."""
    claims, utility = [one.judge(table, settings) for one in tests], utility_of(table, references, settings)
    return _at_all_of_alpha([claim.word((*claim.gates, utility)) for claim in claims])


def _outcome_by_table(asked: TableInput, settings: Settings) -> str:
    found = [replace(asked, spends=share).judge(settings) for share in dict.fromkeys((asked.spends, 1.0))]
    gates = (controls_gate(asked, found[0], settings),)  # the same whatever share of alpha accusations use
    return _at_all_of_alpha([RecordClaim(one.residual, one.channels, gates, levels=one).word(gates) for one in found])


def _at_all_of_alpha(words: Sequence[str]) -> str:
    """Return the outcome at the share of alpha, the first, unless it is a certificate that all of alpha does not give."""
    certified = [word == "EQUIVALENT_WITHIN" for word in words]
    return "INCONCLUSIVE" if certified[0] and not all(certified) else words[0]


def _rates(outcomes: Sequence[str], obstacles: tuple[Gate, ...]) -> MeasuredPower:
    def rate(word: str) -> Estimate:
        return clopper_pearson(outcomes.count(word), len(outcomes), 0.95)

    return MeasuredPower(rate("EQUIVALENT_WITHIN"), rate("NOT_FORGOTTEN"), obstacles)


def _obstacles(claim: RecordClaim, utility: Gate) -> tuple[Gate, ...]:
    """Return the failed gates that keep every target from being certified: not those that judge one target alone."""
    missing = () if utility.passed is not None else (utility,)
    failed = [gate for gate in claim.gates if not gate.passed and gate.blocks != "nothing" and gate.name not in OF_THE_TARGET]
    return (*failed, *missing)


def _needed(drawn: "_ReferenceDraws", there: int, settings: Settings, spends: float) -> int | None:
    """Return the smallest number of references that certifies most honest targets, further ones drawn as the targets are."""
    for count in (number for number in MORE_REFERENCES if number > max(there, MIN_REFERENCES - 1)):
        rng, certified = np.random.default_rng(settings.seed), 0
        for _ in range(ROUGH_DRAWS):
            table = drawn.table(1 + count - there, rng)
            labels = [label for label in table.models() if label.startswith("reference")]
            certified += _outcome(table, labels, _tests(table, labels, spends), settings) == "EQUIVALENT_WITHIN"
        if certified >= USUAL_POWER * ROUGH_DRAWS:
            return count
    return None


@dataclass(frozen=True, eq=False)
class _ReferenceDraws:
    """Honest retrainings like given references.

    Attributes:
        given: scores of the original and the references.
        spreads: how the references differ, by set and way of asking.
        retained: what the target loses on the retain set beyond the references' mean [N]; 0 where it is trained as they are.
    """

    given: ScoreTable
    spreads: Mapping[tuple[str, str], Spread]
    retained: Array | float

    @classmethod
    def of(cls, table: ScoreTable, references: Sequence[str], approximate: bool) -> "_ReferenceDraws":
        """Measure how the references differ."""
        spreads: dict[tuple[str, str], Spread] = {}
        for role in JUDGED:
            block = table.block(references[0], role)
            if block is None:
                continue
            numbers = subject_numbers(whose(block))
            asked = [name for name in block.channels if all(name in table.blocks[label, role].channels for label in references)]
            for name in (EXACT_TEXT, *asked):
                spreads[role, name] = Spread.of(np.stack([table.channel(name, label, role) for label in references]), numbers)
        retain = table.block("original", "retain")
        kept = approximate and retain is not None
        return cls(table, spreads, retain.loss - spreads["retain", EXACT_TEXT].mean if kept and retain is not None else 0.0)

    def table(self, models: int, rng: np.random.Generator) -> ScoreTable:
        """Draw models that share the error of the references' mean: the target, and further references."""
        target, *others = honest_models(self.spreads, models, rng)
        if ("retain", EXACT_TEXT) in target:
            target["retain", EXACT_TEXT] = target["retain", EXACT_TEXT] + self.retained
        found = dict(_with_target(self.given, target).blocks)
        there = sum(label.startswith("reference") for label in self.given.models())
        for number, other in enumerate(others, there + 1):
            found |= _blocks(self.given, f"reference {number}", other)
        return ScoreTable(found)


def _losses_of(channels: Mapping[str, TableLosses]) -> Losses:
    """Return a simulated target's losses by set and way of asking."""
    found: Losses = {("forget", name): losses.target for name, losses in channels.items()}
    return found | {("holdout", name): losses.control_target for name, losses in channels.items()}


def _with_target(table: ScoreTable, losses: Losses) -> ScoreTable:
    """Put a simulated target into the place of the one that is there; sets that it has no losses on are the original's."""
    others = {place: block for place, block in table.blocks.items() if place[0] != "target"}
    return ScoreTable({**others, **_blocks(table, "target", losses)})


def _blocks(table: ScoreTable, label: str, losses: Losses) -> Blocks:
    """Write losses by set and way of asking as a model's blocks, on the records of the original's."""
    found: Blocks = {}
    for (model, role), block in table.blocks.items():
        if model == "original":
            exact = losses.get((role, EXACT_TEXT), block.loss)
            channels = {name: losses.get((role, name), own) for name, own in block.channels.items()}
            found[label, role] = replace(block, loss=exact, channels=channels, scores={})
    return found
