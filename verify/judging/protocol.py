"""The decision protocol, from scores to a verdict: a pure function of score table and settings.

Precedence within a claim: a failed gate (NOT_TESTABLE) before an accusation (NOT_FORGOTTEN) before a certificate
(EQUIVALENT_WITHIN); everything else is INCONCLUSIVE, with what would settle it. Over all claims any accusation stands, unless the
model no longer works (utility gate). Where several tiers can accuse, they share alpha.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from verify.judging.attack_results import attack_results, utility_of_models
from verify.judging.blind_baseline import NothingSharedError, blind_auc, blind_permutation_p
from verify.judging.figure_data import figures
from verify.judging.gates import (
    blind_baseline_gate,
    controls_gate,
    negative_control_gate,
    planted_gate,
    positive_control_gate,
    references_gate,
    utility_gate,
)
from verify.judging.tier_canaries import judge_process
from verify.judging.tier_controls import judge_controls
from verify.judging.tier_references import accused_records, described_tests
from verify.judging.user_level import enough_people, judge_people
from verify.judging.verdict_text import explain, next_step, not_shown, scope, seen_by_attacks
from verify.schema.evidence import Judgement, Settings
from verify.schema.parts import (
    CoinBatch,
    Gate,
    People,
    Process,
    SetRole,
    Tier,
    Twins,
    Value,
    VerdictWord,
)
from verify.scores.table import ScoreTable
from verify.statistics.residual import ResidualVerdict, residual_verdict


@dataclass(frozen=True)
class Aside:
    """Inputs of a verdict that do not follow from the scores: the blind baseline and the commitment to the canary assignments.

    Attributes:
        blind: AUC of the blind baseline between forget and holdout texts; None without a holdout set, or where either set belongs
            to one person.
        blind_p: its permutation p-value, where the holdout is declared to consist of exchangeable controls.
        people_blind_p: the same between fresh and holdout texts.
        commitment: to the canary assignments, or None without canaries.
        earlier: counts of earlier deletions' canaries.
    """

    blind: Value | None = None
    blind_p: float | None = None
    people_blind_p: float | None = None
    commitment: str | None = None
    earlier: tuple[CoinBatch, ...] = ()


def judge(table: ScoreTable, settings: Settings, aside: Aside) -> Judgement:
    """Judge a table of scores.

    Args:
        table: scores of "original", "target" and "reference 1", "reference 2", ... (and "base") on the forget set, and on the
            retain, holdout, canary and fresh sets where present.
        settings: what was decided beforehand.
        aside: the few inputs that need texts or a secret; everything else follows from the table.
    """
    references = [model for model in table.models() if model.startswith("reference")]
    tiers = _tiers(table, settings, len(references))
    shared = settings.model_copy(update={"alpha": settings.alpha / max(1, len(tiers))})
    utility = utility_of_models(table, references, settings)
    ratio = next((entry.ratio for entry in utility if entry.model == "target"), None)
    holdout = table.block("target", "holdout")
    controls = 0 if holdout is None else len(holdout.records)
    target, gates = _retrained(table, references, shared)
    gates += [
        utility_gate(ratio, "the retrained references" if references else "the model before unlearning", settings),
        blind_baseline_gate(aside.blind, controls),
        controls_gate(controls, settings.fpr),
    ]
    process = None if aside.commitment is None else judge_process(table, settings, shared.alpha, aside.commitment, aside.earlier)
    twins = None if aside.blind_p is None else judge_controls(table, settings, shared.alpha, aside.blind_p)
    people = judge_people(table, settings, shared.alpha, aside.people_blind_p)
    others: dict[Tier, Twins | People | Process | None] = {
        "exchangeable twins": twins,
        "fresh texts": people,
        "canaries": process,
    }
    claims = {tier: claim for tier, claim in others.items() if claim is not None}
    words: dict[Tier, VerdictWord] = {
        "retrained references": _of_references(gates, target),
        **{tier: claim.verdict for tier, claim in claims.items()},
    }
    verdict = _verdict(gates, words)
    accused_by = tuple(tier for tier, word in words.items() if verdict == word == "NOT_FORGOTTEN")
    accused, attacks = accused_records(table, target), attack_results(table, settings)
    records = len(table.blocks["target", "forget"].records)
    return Judgement(
        verdict=verdict,
        explanation=explain(verdict, gates, target, list(claims.values()), settings),
        scope=scope(verdict, tiers, accused_by, settings, records),
        not_shown=(
            *(() if verdict == "NOT_FORGOTTEN" else seen_by_attacks(attacks)),
            *not_shown(controls, ratio, aside.commitment is not None, records),
        ),
        next_step=next_step(verdict, gates, len(references), records),
        tiers=tiers,
        accused_by=accused_by,
        gates=tuple(gates),
        residual=None if target is None or target.rho is None else Value.of(target.rho),
        tests=() if target is None else described_tests(target),
        accused=accused,
        blind=aside.blind,
        blind_p=aside.blind_p,
        process=process,
        twins=twins,
        people=people,
        attacks=tuple(attacks),
        utility=utility,
        figures=figures(table, target),
    )


def blind_aside(texts: Mapping[SetRole, Sequence[str]], subjects: Mapping[SetRole, Sequence[str]], settings: Settings) -> Aside:
    """Run the blind baseline on forget against holdout texts: its AUC and, for exchangeable controls, its permutation p-value.

    It is not run where all records of a side belong to one person, as in most deletion requests (no person can be held out for
    cross-validation), or where no two texts share a word. Exchangeable controls also serve for fresh texts, so for these the
    baseline is run on fresh against holdout texts too.

    Raises:
        InputError: the holdout is declared exchangeable, but the baseline cannot be run to check it.
    """
    people = {role: len(set(subjects[role])) for role in texts}
    if "holdout" not in texts or (not settings.twins and min(people["forget"], people["holdout"]) < 2):
        return Aside()

    def sides(role: SetRole) -> tuple[Sequence[str], ...]:
        return texts[role], texts["holdout"], subjects[role], subjects["holdout"]

    if not settings.twins:
        with suppress(NothingSharedError):
            return Aside(Value.of(blind_auc(*sides("forget"), confidence=settings.confidence, seed=settings.seed)))
        return Aside()
    blind = Value.of(blind_auc(*sides("forget"), confidence=settings.confidence, seed=settings.seed))
    fresh = None
    if people.get("fresh", 0) > 1:
        with suppress(NothingSharedError):
            fresh = blind_permutation_p(*sides("fresh"), seed=settings.seed)
    return Aside(blind, blind_permutation_p(*sides("forget"), seed=settings.seed), fresh)


def _tiers(table: ScoreTable, settings: Settings, references: int) -> tuple[Tier, ...]:
    """Return the tiers that can accuse, strongest first."""
    holdout = table.block("target", "holdout") is not None
    present: dict[Tier, bool] = {
        "retrained references": references >= 2,
        "exchangeable twins": settings.twins and holdout,
        "canaries": table.block("target", "canary") is not None,
        "fresh texts": settings.twins and enough_people(table),
    }
    return tuple(tier for tier, there in present.items() if there)


def _retrained(table: ScoreTable, references: Sequence[str], settings: Settings) -> tuple[ResidualVerdict | None, list[Gate]]:
    """Compare with retrained references (Tier B): the gates, and the test of the target where there are enough references."""
    gates = [references_gate(len(references))]
    if len(references) < 2:
        return None, gates
    original, losses = table.loss("original", "forget"), table.losses(references, "forget")
    gates += [
        positive_control_gate(residual_verdict(original, original, losses, settings.margin, settings.alpha)),
        planted_gate(original, losses, settings),
        negative_control_gate(original, losses, settings),
    ]
    return residual_verdict(original, table.loss("target", "forget"), losses, settings.margin, settings.alpha), gates


def _of_references(gates: Sequence[Gate], target: ResidualVerdict | None) -> VerdictWord:
    """Return the outcome of the comparison with retrained references alone, gates before tests."""
    failed = [gate for gate in gates if not gate.passed and "record" in gate.claims]
    if target is None or any(gate.blocks == "NOT_TESTABLE" for gate in failed):
        return "NOT_TESTABLE"
    if target.accused:
        return "NOT_FORGOTTEN"
    certified = target.certified and not any(gate.blocks == "INCONCLUSIVE" for gate in failed)
    return "EQUIVALENT_WITHIN" if certified else "INCONCLUSIVE"


def _verdict(gates: Sequence[Gate], words: Mapping[Tier, VerdictWord]) -> VerdictWord:
    """Combine the claims by precedence: each has passed its own gates, and any accusation stands."""
    if any(gate.name == "utility" and gate.passed is False for gate in gates):
        return "NOT_TESTABLE"
    if "NOT_FORGOTTEN" in words.values():
        return "NOT_FORGOTTEN"
    record = words["retrained references"]
    unexamined = any(gate.name == "retrained references" and gate.blocks == "NOT_TESTABLE" for gate in gates)
    return "INCONCLUSIVE" if record == "NOT_TESTABLE" and unexamined and "INCONCLUSIVE" in words.values() else record
