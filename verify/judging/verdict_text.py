"""The sentences that explain a verdict. Every number comes from the judgement; nothing is decided here."""

from collections.abc import Sequence
from typing import Literal

from verify.schema.evidence import Settings
from verify.schema.parts import AttackResult, Gate, People, Process, Tier, Twins, Value, VerdictWord
from verify.statistics.residual import ResidualVerdict

SHOWN_BY: dict[Tier, str] = {
    "retrained references": "the mean loss per token against retrained references",
    "exchangeable twins": "conformal p-values against twins held out at random",
    "canaries": "guesses about coin-flipped canaries, which speak of the procedure and not of these records",
    "fresh texts": "texts of the same people that no model was trained on",
}


ENOUGH_FOR_ONE = 8
"""References from which on one record's own spread, and no longer the references' number, keeps an audit open."""


def scope(verdict: VerdictWord, tiers: Sequence[Tier], accused_by: Sequence[Tier], settings: Settings, records: int) -> str:
    """State which claim the verdict is about, and which tiers showed it.

    Args:
        verdict: the word.
        tiers: what could accuse.
        accused_by: what did.
        settings: margin and level.
        records: size of the forget set.
    """
    if not tiers:
        return "No claim could be examined: there are no retrained references, twins or canaries."
    about = "this one record" if records == 1 else "this forget set as a whole"
    shared = f", each tier at alpha / {len(tiers)}" if len(tiers) > 1 else ""
    decided = verdict in ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN")
    certified_by: tuple[Tier, ...] = ("retrained references",)
    shown_by = {"NOT_FORGOTTEN": accused_by, "EQUIVALENT_WITHIN": certified_by}.get(verdict, tiers)
    said = "A claim about {}, shown for {}" if decided else "A question about {} that stays open, examined by {}"
    return (
        f"{said.format(about, '; '.join(SHOWN_BY[tier] for tier in shown_by))}; "
        f"with the margin rho* = {settings.margin:g} at level alpha = {settings.alpha:g}{shared}."
    )


def explain(
    verdict: VerdictWord,
    gates: Sequence[Gate],
    target: ResidualVerdict | None,
    claims: Sequence[Process | Twins | People],
    settings: Settings,
) -> tuple[str, ...]:
    """Explain the verdict, one plain sentence each: retrained references first, then every other claim."""
    return (*_explain_record(verdict, gates, target, settings), *(claim.reason for claim in claims))


def _explain_record(
    verdict: VerdictWord, gates: Sequence[Gate], target: ResidualVerdict | None, settings: Settings
) -> tuple[str, ...]:
    failed = [gate for gate in gates if not gate.passed and "record" in gate.claims]
    blocking = tuple(gate.reason for gate in failed if gate.blocks == "NOT_TESTABLE")
    if blocking or target is None:
        return blocking
    rho = "is not defined" if target.rho is None else f"is {target.rho.value:.3f} [{target.rho.low:.3f}, {target.rho.high:.3f}]"
    residual = f"The residual fraction {rho}: 1 is untouched, 0 is what retraining gives, below 0 is over-forgotten."
    test = target.record_test
    over = int((test.accused & ~test.remembered).sum())
    records = (
        f"{int(test.accused.sum())} of {target.records} records are beyond the margin of {settings.margin:g}: "
        f"{int(test.accused.sum()) - over} remembered, {over} over-forgotten."
    )
    if target.accused:
        side = "more of the set is left" if target.mean_residual > 0 else "the set is further from the original"
        mean = f"On average {side} than between two honest retrainings, by more than the margin."
        return (residual, *([mean] if target.mean_test.accused else []), records)
    if verdict == "EQUIVALENT_WITHIN":
        return (residual, "Mean and spread of the residuals are inside the margin, and no record is beyond it.")
    open_tests = [name for name, shown in (("C1", target.mean_test.certified), ("C2", target.spread_test.certified)) if not shown]
    reasons = [f"Nothing was found, but equivalence was not shown either ({' and '.join(open_tests)})."] if open_tests else []
    return (residual, *reasons, *(gate.reason for gate in failed if gate.blocks == "INCONCLUSIVE"))


def not_shown(controls: int, ratio: Value | None, canaries: bool, records: int) -> tuple[str, ...]:
    """State what the audit does not show; `records` is the size of the forget set."""
    sentences = [
        "It is a claim about the set: it cannot exclude that a single record is still remembered."
        if records > 1
        else "It is a claim about one record's loss: what the model says of the same person in other words was not asked.",
        "An attack that fails is evidence of resistance to that attack, not to others (EDPB Opinion 28/2024, paragraph 55).",
        "What the base model was pre-trained on is outside this audit: a record it held before fine-tuning is still there.",
        "Other copies of the records (data files, backups, other models) are not examined here.",
    ]
    if canaries:
        sentences.append("Canaries speak of the deletion procedure on random texts; a person's records may be harder to remove.")
    if not controls:
        sentences.append("Membership attacks were not judged: no never-trained controls were given (--holdout FILE).")
    if ratio is None:
        sentences.append("Whether the model still works was not examined: no retain set was given (--retain FILE).")
    return tuple(sentences)


def seen_by_attacks(attacks: Sequence[AttackResult]) -> tuple[str, ...]:
    """State what attacks see that the verdict does not count but must not omit."""
    said = "The verdict compares the loss of every record with retrainings. Beside that, attacks"
    sentences = []
    if found := beyond_references(attacks, "membership"):
        told = "tell these records from never-trained ones in this model as in no reference (AUC)"
        sentences.append(f"{said} {told}: {'; '.join(found.values())}.")
    if found := beyond_references(attacks, "extraction"):
        told = "bring back more of these records from this model than from any reference (mean)"
        sentences.append(f"{said} {told}: {'; '.join(found.values())}.")
    return tuple(sentences)


def beyond_references(attacks: Sequence[AttackResult], family: Literal["membership", "extraction"]) -> dict[str, str]:
    """Return attacks whose interval for the target lies beyond those of all references (at least two), with numbers.

    Beyond is above; an AUC may also lie below: records that were pushed too far are told apart with the sign turned.
    """
    values: dict[str, dict[str, Value]] = {}
    for entry in attacks:
        value = entry.auc if family == "membership" else entry.mean
        if entry.family == family and value is not None:
            values.setdefault(entry.attack, {})[entry.model] = value
    found = {}
    for name, by_model in values.items():
        target, references = by_model.get("target"), [value for model, value in by_model.items() if model.startswith("reference")]
        if target is None or len(references) < 2:
            continue
        numbers = f"{name} {target.value:.2f} [{target.low:.2f}, {target.high:.2f}], references"
        if target.low > max(value.high for value in references):
            found[name] = f"{numbers} at most {max(value.value for value in references):.2f}"
        elif family == "membership" and target.high < min(value.low for value in references):
            found[name] = f"{numbers} at least {min(value.value for value in references):.2f}"
    return found


def next_step(verdict: VerdictWord, gates: Sequence[Gate], references: int, records: int) -> str | None:
    """State what would settle an open verdict; `records` is the size of the forget set."""
    if verdict in ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN"):
        return None
    failed = [gate.name for gate in gates if not gate.passed and "record" in gate.claims]
    if "retrained references" in failed:
        return f"Train {max(4 - references, 1)} more references without the forget set, each with another --seed, and audit again."
    if verdict == "NOT_TESTABLE":
        return f"Mend what failed ({', '.join(failed)}) and audit again."
    if "utility" in failed:
        return "Give the records that the model was to keep (--retain FILE) and audit again: nobody looked whether it still works."
    if records == 1 and references >= ENOUGH_FOR_ONE:
        return (
            "More references would hardly help: how much one record varies between two retrainings stays. Audit it together with "
            "other records that are removed from the same model, or register a wider margin before unlearning."
        )
    more = max(8, 2 * references)
    return f"Audit again with {more} references: the width of every interval shrinks with their number."
