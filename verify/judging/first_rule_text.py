"""Sentences of a verdict by rule 1, as version 0.1.0 wrote them: old evidence recomputes to the same words, so none may change.

All numbers come from the judgement; nothing is decided here.
"""

from collections.abc import Sequence

from verify.judging.verdict_text import beyond_references
from verify.schema.attack_results import AttackResult
from verify.schema.parts import Gate, Tier, Value, VerdictWord
from verify.schema.settings import Settings
from verify.statistics.residual import ResidualVerdict

LOSS = "how familiar the exact text of each record, exactly as it was trained, is to the model (mean loss per token)"
SHOWN_BY: dict[Tier, str] = {
    "retrained references": f"{LOSS}, compared with models retrained without the records",
    "exchangeable twins": f"{LOSS}, compared with controls held out at random (conformal p-values)",
    "canaries": "guesses about canary assignments, which test the deletion procedure and not these records",
    "fresh texts": "how familiar other texts of the same people, never trained on, are to the model (mean loss per token)",
}
"""What each tier measured, as the scope names it."""
NOT_ASKED = "The verdict says nothing about the same content in other words or after other prompts."


ENOUGH_FOR_ONE = 8
"""With this many references, an open audit of one record is limited by the record's own variance, not by their number."""


def scope(verdict: VerdictWord, tiers: Sequence[Tier], accused_by: Sequence[Tier], settings: Settings, records: int) -> str:
    """State what the verdict is about, which measurement it rests on, and what it does not show.

    Args:
        verdict: one of the four words.
        tiers: what could accuse.
        accused_by: what did accuse.
        settings: margin and level.
        records: size of the forget set.
    """
    if not tiers:
        return "No claim could be examined: there are no retrained references, held-out controls or canaries."
    about = "this one record" if records == 1 else "this forget set as a whole"
    shared = f", each tier at alpha / {len(tiers)}" if len(tiers) > 1 else ""
    decided = verdict in ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN")
    certified_by: tuple[Tier, ...] = ("retrained references",)
    shown_by = {"NOT_FORGOTTEN": accused_by, "EQUIVALENT_WITHIN": certified_by}.get(verdict, tiers)
    said = "This verdict is about {}. It rests on" if decided else "The question about {} stays open. Examined was"
    measured = "; ".join(SHOWN_BY[tier] for tier in shown_by)
    limits = f"Margin rho* = {settings.margin:g}, level alpha = {settings.alpha:g}{shared}."
    return f"{said.format(about)} {measured}. {NOT_ASKED} {limits}"


def explain_record(
    verdict: VerdictWord, gates: Sequence[Gate], target: ResidualVerdict | None, settings: Settings
) -> tuple[str, ...]:
    """Explain the comparison with retrained references in plain sentences."""
    failed = [gate for gate in gates if not gate.passed and "record" in gate.claims]
    blocking = tuple(gate.reason for gate in failed if gate.blocks == "NOT_TESTABLE")
    if blocking or target is None:
        return blocking
    rho = "is not defined" if target.rho is None else f"is {target.rho.value:.3f} [{target.rho.low:.3f}, {target.rho.high:.3f}]"
    residual = f"The residual fraction {rho}: 1 means untouched, 0 is what retraining gives, below 0 means over-forgotten."
    test = target.record_test
    over = int((test.accused & ~test.remembered).sum())
    records = (
        f"{int(test.accused.sum())} of {target.records} records were found beyond the margin of {settings.margin:g}: "
        f"{int(test.accused.sum()) - over} remembered, {over} over-forgotten."
    )
    if target.accused:
        side = "better" if target.mean_residual > 0 else "worse"
        mean = f"On average the model predicts the set {side} than models retrained without it, by more than the margin."
        return (residual, *([mean] if target.mean_test.accused else []), records)
    if verdict == "EQUIVALENT_WITHIN":
        return (
            residual,
            "Mean and spread of the residuals are within their limits, and no record was found beyond the margin.",
        )
    open_tests = [name for name, shown in (("C1", target.mean_test.certified), ("C2", target.spread_test.certified)) if not shown]
    reasons = (
        [f"Nothing beyond the margin was found, but equivalence was not shown either ({' and '.join(open_tests)})."]
        if open_tests
        else []
    )
    return (residual, *reasons, *(gate.reason for gate in failed if gate.blocks == "INCONCLUSIVE"))


def not_shown(controls: int, ratio: Value | None, canaries: bool, records: int) -> tuple[str, ...]:
    """State what the audit does not show, one sentence each; `records` is the size of the forget set."""
    sentences = [
        "What the model says about the same content or person in other words, or after other prompts, is not part of the verdict.",
        *(["The verdict is about the set: it cannot exclude that a single record is still remembered."] if records > 1 else []),
        "An attack that fails is evidence of resistance to that attack, not to others (EDPB Opinion 28/2024, paragraph 55).",
        "What the base model learned in pre-training is outside this audit: a record it knew before fine-tuning is still there.",
        "Other copies of the records (data files, backups, other models) were not examined.",
    ]
    if canaries:
        sentences.append("Canaries test the deletion procedure on random texts; a person's records may be harder to remove.")
    if not controls:
        sentences.append("Membership attacks were not judged: no never-trained controls were given (--holdout FILE).")
    if ratio is None:
        sentences.append("Whether the model still works was not examined: no retain set was given (--retain FILE).")
    return tuple(sentences)


def seen_by_attacks(attacks: Sequence[AttackResult]) -> tuple[str, ...]:
    """Report attacks that find more than in any reference: they have no vote in the verdict, but must not be left out."""
    said = "Attacks have no vote in the verdict, but these"
    sentences = []
    if found := beyond_references(attacks, "membership"):
        seen = "distinguish the records from never-trained ones in this model unlike in any reference (AUC)"
        sentences.append(f"{said} {seen}: {'; '.join(found.values())}.")
    if found := beyond_references(attacks, "extraction", below=False):
        seen = "extract more of the records from this model than from any reference (mean score)"
        sentences.append(f"{said} {seen}: {'; '.join(found.values())}.")
    return tuple(sentences)


def next_step(verdict: VerdictWord, gates: Sequence[Gate], references: int, records: int) -> str | None:
    """State what would settle an open verdict; `records` is the size of the forget set."""
    if verdict in ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN"):
        return None
    failed = [gate.name for gate in gates if not gate.passed and "record" in gate.claims]
    if "retrained references" in failed:
        return (
            f"Train {max(4 - references, 1)} more references without the forget set, each with a different --seed, and audit again."
        )
    if verdict == "NOT_TESTABLE":
        return f"Fix what failed ({', '.join(failed)}) and audit again."
    if "utility" in failed:
        return "Give the records that the model was to keep (--retain FILE) and audit again: whether it still works was not tested."
    if records == 1 and references >= ENOUGH_FOR_ONE:
        return (
            "More references would hardly help: how much one record varies between retrainings does not shrink with their number. "
            "Audit it together with other records removed from the same model, or register a wider margin before unlearning."
        )
    more = max(8, 2 * references)
    return f"Audit again with {more} references: every interval narrows as their number grows."
