"""The decision protocol, from scores to a verdict: a pure function of score table and settings.

Precedence within a claim: a failed gate (NOT_TESTABLE) before an accusation (NOT_FORGOTTEN) before a certificate
(EQUIVALENT_WITHIN); everything else is INCONCLUSIVE, with what would settle it. Over all claims any accusation stands, unless the
utility gate fails: the model no longer works, or the references do not fit it. Where several tiers can accuse, they share alpha.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from verify.judging import first_rule_text
from verify.judging.adapter_off import judge_without_adapter
from verify.judging.alpha_shares import Shares
from verify.judging.attack_results import attack_results, utility_of_models
from verify.judging.blind_baseline import NothingSharedError, blind_auc, blind_permutation_p
from verify.judging.canary_claim import judge_process
from verify.judging.figure_data import figures
from verify.judging.gates import all_of_alpha_gate, blind_baseline_gate, controls_gate, unasked_gates, utility_gate
from verify.judging.held_out_claim import judge_controls
from verify.judging.level_table_claim import described_table_tests, table_claim
from verify.judging.record_claim import RecordClaim, record_claim
from verify.judging.reference_tests import accused_records, described_tests
from verify.judging.ruling import RECORD_TIERS, OtherClaim, OtherClaims, Ruling
from verify.judging.sibling_claim import judge_siblings
from verify.judging.subject_findings import accused_subjects
from verify.judging.user_level_claim import judge_people
from verify.judging.verdict_text import Facts, explain, next_step, not_shown, scope, seen_by_attacks
from verify.schema.attack_results import AttackResult, ChannelNotRun
from verify.schema.claims import CanaryBatch, WithoutAdapter
from verify.schema.evidence import Judgement
from verify.schema.inputs import Registered
from verify.schema.judged_by import TABLE_RULES, ControlsAccount, LevelTableUsed
from verify.schema.parts import Gate, SetRole, Test, Tier, Value
from verify.schema.representation import Representation
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable


@dataclass(frozen=True)
class Aside:
    """Inputs of a verdict that do not follow from the scores: the blind baseline and the commitment to the canary assignments.

    Attributes:
        blind: AUC of the blind baseline between forget and holdout texts; None without a holdout set, or where either set belongs
            to one person.
        blind_p: its permutation p-value, where the holdout is declared to consist of exchangeable controls.
        people_blind_p: the same between fresh and holdout texts.
        commitment: commitment to the canary assignments; None without canaries.
        earlier: counts of earlier deletions' canaries.
        representation: the claim about hidden states, which are not in the score table.
        not_run: ways of asking that could not be measured.
        level_table: what judges in place of retrained references, by rules 3 and 4; its numbers are in the score table.
        registered: the registration of the audit.
        account: account of the audits against the same controls, which says at which level this one accuses; None for alpha.
    """

    blind: Value | None = None
    blind_p: float | None = None
    people_blind_p: float | None = None
    commitment: str | None = None
    earlier: tuple[CanaryBatch, ...] = ()
    representation: Representation | None = None
    not_run: tuple[ChannelNotRun, ...] = ()
    level_table: LevelTableUsed | None = None
    registered: Registered | None = None
    account: ControlsAccount | None = None


def judge(table: ScoreTable, settings: Settings, aside: Aside) -> Judgement:
    """Judge a table of scores.

    Args:
        table: scores of "original", "target" and "reference 1", "reference 2", ... (and "base") on the forget set, and on the
            retain, holdout, canary and fresh sets where present; by rules 3 and 4 "pool 1", ... in place of references.
        settings: what was decided beforehand.
        aside: the few inputs that need texts or a secret; everything else follows from the table.
    """
    references = [model for model in table.models() if model.startswith("reference")]
    shares = Shares.of(table, settings, len(references), aside.account)
    utility = utility_of_models(table, references, settings)
    ratio = next((entry.ratio for entry in utility if entry.model == "target"), None)
    holdout = table.block("target", "holdout")
    controls = 0 if holdout is None else len(holdout.records)
    claim = _record_claim(table, references, shares, aside)
    gates = _gates(claim, settings, aside, ratio, controls, len(references))
    ruling = Ruling.of(claim, _other_claims(table, shares, aside), gates)
    ruling = _held_against_all_of_alpha(ruling, table, shares, aside)
    attacks = attack_results(table, settings)
    alone = judge_without_adapter(table, references, shares.of_a_claim)
    facts = _facts(ruling, table, shares, aside, len(references))
    others, target = ruling.others, claim.target
    return Judgement(
        verdict=ruling.verdict,
        **_sentences(facts, attacks, others.made(), controls, ratio, alone),
        tiers=tuple(facts.tiers),
        accused_by=ruling.accused_by,
        gates=ruling.gates,
        residual=None if target is None or target.rho is None else Value.of(target.rho),
        tests=_tests(claim),
        accused=accused_records(table, target),
        blind=aside.blind,
        blind_p=aside.blind_p,
        process=others.process,
        twins=others.twins,
        people=others.people,
        siblings=others.siblings,
        channels=claim.channels,
        subjects=accused_subjects(table, target),
        noise_ratio=None if target is None or target.noise is None else target.noise.ratio,
        smallest_margin=claim.smallest_margin,
        weak=claim.weak,
        representation=aside.representation,
        attacks=tuple(attacks),
        utility=utility,
        figures=figures(table, target, claim.levels is not None),
        without_adapter=alone,
    )


def _record_claim(table: ScoreTable, references: Sequence[str], shares: Shares, aside: Aside) -> RecordClaim:
    """Judge the records by the level table or by retrained references, whichever the rule names."""
    shared = shares.of_a_claim
    if shared.rule in TABLE_RULES:
        return table_claim(table, shared, aside.level_table, aside.registered, aside.blind_p, shares.spends)
    return record_claim(table, references, shared, aside.blind, shares.spends)


def _other_claims(table: ScoreTable, shares: Shares, aside: Aside) -> OtherClaims:
    """Judge every claim other than the record claim for which the audit has what it needs."""
    settings, level = shares.settings, shares.accusing
    process = None
    if aside.commitment is not None:
        process = judge_process(table, settings, shares.of_a_claim.alpha, aside.commitment, aside.earlier)
    return OtherClaims(
        siblings=judge_siblings(table, settings, shares.of_siblings) if settings.shard_siblings else None,
        twins=None if aside.blind_p is None else judge_controls(table, settings, level, aside.blind_p),
        people=judge_people(table, settings, level, aside.people_blind_p),
        process=process,
    )


def _gates(
    claim: RecordClaim, settings: Settings, aside: Aside, ratio: Value | None, controls: int, references: int
) -> tuple[Gate, ...]:
    """Return all validity checks: those of the record claim, and those of the audit.

    Args:
        claim: the record claim.
        settings, aside: the other inputs of the verdict.
        ratio: the target's utility, of the references' or the original's.
        controls, references: how many there are.
    """
    utility = (
        utility_gate(ratio, "the retrained references", settings, settings.utility_ceiling)
        if references
        else utility_gate(ratio, "the model before unlearning", settings)
    )
    return (
        *claim.gates,
        *unasked_gates(aside.not_run),
        utility,
        blind_baseline_gate(aside.blind, controls, settings.rule),
        controls_gate(controls, settings.fpr),
    )


def _held_against_all_of_alpha(ruling: Ruling, table: ScoreTable, shares: Shares, aside: Aside) -> Ruling:
    """Judge at all of alpha, too, where accusations use a share of it, and rule under the gate on what that gives.

    Only where it decides: before a certificate, and where all of alpha accuses what a share of it leaves open.
    """
    if ruling.verdict not in ("EQUIVALENT_WITHIN", "INCONCLUSIVE") or shares.spends >= 1:
        return ruling
    whole = judge(table, shares.settings, replace(aside, account=None)).verdict
    decides = ruling.verdict == "EQUIVALENT_WITHIN" or whole == "NOT_FORGOTTEN"
    return ruling.under(all_of_alpha_gate(whole)) if decides else ruling


def _facts(ruling: Ruling, table: ScoreTable, shares: Shares, aside: Aside, references: int) -> Facts:
    """Return what the sentences of a judgement are about."""
    claim = ruling.claim
    return Facts(
        verdict=ruling.verdict,
        settings=shares.settings,
        tiers=(*claim.tiers, *(tier for tier in shares.sharing if tier not in RECORD_TIERS)),
        accused_by=ruling.accused_by,
        gates=ruling.gates,
        claim=claim,
        records=len(table.blocks["target", "forget"].records),
        references=references,
        level_table=aside.level_table,
        account=aside.account,
    )


def _tests(claim: RecordClaim) -> tuple[Test, ...]:
    """Describe the tests of the record claim; empty where none was made."""
    if claim.levels is not None:
        return described_table_tests(claim.levels)
    return () if claim.target is None else described_tests(claim.target)


def _sentences(
    facts: Facts,
    attacks: Sequence[AttackResult],
    claims: Mapping[Tier, OtherClaim],
    controls: int,
    ratio: Value | None,
    alone: WithoutAdapter | None,
) -> dict[str, Any]:
    """Return the sentences of a judgement, by its rule, with what the model says without its adapter."""
    said = (_said_by_rule_1 if facts.settings.rule == 1 else _said)(facts, attacks, claims, controls, ratio)
    return said if alone is None else {**said, "explanation": (*said["explanation"], alone.reason)}


def _said(
    facts: Facts,
    attacks: Sequence[AttackResult],
    claims: Mapping[Tier, OtherClaim],
    controls: int,
    ratio: Value | None,
) -> dict[str, Any]:
    """Return the sentences of a judgement by rule 2."""
    seen = () if facts.verdict == "NOT_FORGOTTEN" else seen_by_attacks(attacks)
    return {
        "explanation": explain(facts, [claim.reason for claim in claims.values()]),
        "scope": scope(facts),
        "not_shown": (*seen, *not_shown(facts, controls, ratio, "canaries" in claims)),
        "next_step": next_step(facts),
    }


def _said_by_rule_1(
    facts: Facts,
    attacks: Sequence[AttackResult],
    claims: Mapping[Tier, OtherClaim],
    controls: int,
    ratio: Value | None,
) -> dict[str, Any]:
    """Return the sentences that a judgement by rule 1 has always had."""
    old, verdict = first_rule_text, facts.verdict
    seen = () if verdict == "NOT_FORGOTTEN" else old.seen_by_attacks(attacks)
    record = old.explain_record(verdict, facts.gates, facts.claim.target, facts.settings)
    return {
        "explanation": (*record, *(claim.reason for claim in claims.values())),
        "scope": old.scope(verdict, facts.tiers, facts.accused_by, facts.settings, facts.records),
        "not_shown": (*seen, *old.not_shown(controls, ratio, "canaries" in claims, facts.records)),
        "next_step": old.next_step(verdict, facts.gates, facts.references, facts.records),
    }


def blind_aside(texts: Mapping[SetRole, Sequence[str]], subjects: Mapping[SetRole, Sequence[str]], settings: Settings) -> Aside:
    """Run the blind baseline on forget against holdout texts: its AUC and, for exchangeable controls, its permutation p-value.

    Controls are exchangeable where they were declared to be drawn at random, or belong to a level table. The baseline is not run
    where all records of a side belong to one person, as in most deletion requests (no person can be held out for
    cross-validation), or where no two texts share a word. Exchangeable controls also serve for fresh texts, so for these the
    baseline is run on fresh against holdout texts too.

    Raises:
        InputError: the holdout is declared exchangeable (`Settings.twins`), but the baseline cannot be run to check it.
    """
    people = {role: len(set(subjects[role])) for role in texts}
    if "holdout" not in texts or (not settings.twins and min(people["forget"], people["holdout"]) < 2):
        return Aside()
    # The controls of a level table were drawn at random by its design, and the record claim rests on them.
    at_random = settings.twins or settings.rule in TABLE_RULES

    def sides(role: SetRole) -> tuple[Sequence[str], ...]:
        return texts[role], texts["holdout"], subjects[role], subjects["holdout"]

    if not at_random:
        with suppress(NothingSharedError):
            return Aside(Value.of(blind_auc(*sides("forget"), confidence=settings.confidence, seed=settings.seed)))
        return Aside()
    try:
        blind = Value.of(blind_auc(*sides("forget"), confidence=settings.confidence, seed=settings.seed))
        p = blind_permutation_p(*sides("forget"), seed=settings.seed)
    except NothingSharedError:
        if settings.twins:
            raise
        return Aside()
    fresh = None
    if people.get("fresh", 0) > 1:
        with suppress(NothingSharedError):
            fresh = blind_permutation_p(*sides("fresh"), seed=settings.seed)
    return Aside(blind, p, fresh)
