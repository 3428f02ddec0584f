"""Sentences that explain a verdict by rule 2. All numbers come from the judgement; nothing is decided here.

A certificate names what was asked, an open verdict says that it is open, and neither is to be read as "nothing was found".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from verify.judging.copies import DISTINCT
from verify.judging.copies import ENOUGH as ENOUGH_FOR_A_DISTANCE
from verify.judging.level_table_gates import LEVELS_UNCHECKED
from verify.judging.record_claim import RecordClaim
from verify.schema.attack_results import AttackResult
from verify.schema.channels import EXACT, ChannelResult, channels_asked
from verify.schema.judged_by import ControlsAccount, LevelTableUsed
from verify.schema.parts import Gate, Tier, Value, VerdictWord
from verify.schema.settings import Settings
from verify.statistics.estimate import Estimate

SHOWN_BY: dict[Tier, str] = {
    "retrained references": (
        "the mean loss of each record's exact text, exactly as it was trained, compared with models retrained without the records"
    ),
    "level table": (
        "the mean loss of each record's exact text, exactly as it was trained, compared with what a level table of models that "
        "never saw its person says, calibrated on never-trained controls"
    ),
    "asked otherwise": (
        "the mean loss of the records where the models were asked in other ways, compared with the retrained models and with "
        "never-trained controls"
    ),
    "shard siblings": (
        "the rank of the rebuilt shard among the shards that never saw the records, by the mean loss of each record's exact text "
        "less that of never-trained controls"
    ),
    "exchangeable twins": (
        "the mean loss of each record's exact text, compared with controls held out at random (conformal p-values)"
    ),
    "canaries": "guesses about canary assignments, which test the deletion procedure and not these records",
    "fresh texts": "how familiar other texts of the same people, never trained on, are to the model (mean loss per token)",
}
"""What each tier measured, as the scope names it."""
OTHERWISE_BY_TABLE = (
    "the mean loss of the records where the models were asked in other ways, compared with the level table in the same way"
)
REWORDED = "rewording"
"""Beginning of the names of channels that ask in other words."""
CAN_BE_MADE = (
    "A model can be made to give these losses and still know the records, and nobody can list a secret phrase that would bring "
    "them back."
)
DRAWN_AFTERWARDS = (
    "An operator who also trains on the listed ways of asking has to be met by rewordings that the auditor draws after the model "
    "is handed in."
)
OTHER_WORDS = (
    "What the model says about the same content or person in other words, or after other prompts, is not part of the verdict."
)
OTHER_WAYS = "Ways of asking other than those listed are not part of the verdict."
BY_REEXECUTION = (
    "A deletion that is made again by repeating the training without the records can be proved step by step "
    "(verify-unlearning reexecute)."
)
ENOUGH_FOR_ONE = 8
"""With this many references, an open audit of one record is limited by the record's own variance, not by their number."""


UNTESTED = ("innocent references", "noise of the target", "controls of the same kind")
"""Checks that a report names where they could not be made."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What the sentences are about.

    Attributes:
        verdict: one of the four words.
        settings: margin and level.
        tiers, accused_by: what could accuse, and what did.
        gates: all validity checks.
        claim: the comparison with retrained references, or with a level table.
        records, references: K and R, the retrained references that were given.
        level_table: what judged in place of references, by rules 3 and 4.
        account: account of the audits against the same controls.
    """

    verdict: VerdictWord
    settings: Settings
    tiers: Sequence[Tier]
    accused_by: Sequence[Tier]
    gates: Sequence[Gate]
    claim: RecordClaim
    records: int
    references: int
    level_table: LevelTableUsed | None = None
    account: ControlsAccount | None = None

    @property
    def honest(self) -> str:
        """What the target is compared with."""
        return "models retrained without it" if self.level_table is None else "models that never saw it would"

    @property
    def failed(self) -> list[Gate]:
        """The checks of the record claim that did not pass."""
        return [gate for gate in self.gates if not gate.passed and "record" in gate.claims]

    @property
    def otherwise(self) -> list[ChannelResult]:
        """The valid channels besides the exact text."""
        return [channel for channel in self.claim.channels if channel.valid and channel.name != EXACT]


def scope(facts: Facts) -> str:
    """State what the verdict is about, and what was asked."""
    if not facts.tiers:
        if facts.settings.shard_siblings:
            return "No claim could be examined: there are too few shards for a rank to accuse, and too few references, if any."
        return "No claim could be examined: there are no retrained references, held-out controls or canaries."
    shown = SHOWN_BY if facts.level_table is None else {**SHOWN_BY, "asked otherwise": OTHERWISE_BY_TABLE}
    claims = [tier for tier in facts.tiers if tier != "asked otherwise"]
    shared = f", each claim at alpha / {len(claims)}" if len(claims) > 1 else ""
    spent = "" if facts.account is None or facts.account.expected is None else f", accusations at {facts.account.level:.3g}"
    limits = f"Margin rho* = {facts.settings.margin:g}, level alpha = {facts.settings.alpha:g}{spent}{shared}."
    if facts.verdict == "EQUIVALENT_WITHIN":
        return f"{_within(facts)} {_asked(facts)} {limits}"
    about = "this one record" if facts.records == 1 else "this forget set as a whole"
    if facts.verdict == "NOT_FORGOTTEN":
        said, shown_by = f"This verdict is about {about}. It rests on", facts.accused_by
    else:
        said = f"The question about {about} stays open: neither that it is gone nor that it is still there was shown. Examined was"
        shown_by = facts.tiers
    return f"{said} {'; '.join(shown[tier] for tier in shown_by)}. {_asked(facts)} {limits}"


def _within(facts: Facts) -> str:
    texts = "this one text" if facts.records == 1 else f"these {facts.records} texts"
    if (used := facts.level_table) is not None:
        return (
            f"On {texts}, asked exactly as trained, the model's mean loss is within rho* = {facts.settings.margin:g}, as a share "
            f"of what was memorized, of what a model that never saw them would give, by {used.what}. No model was retrained for "
            "this audit."
        )
    return (
        f"On {texts}, asked exactly as trained, the model's mean loss is within rho* = {facts.settings.margin:g} of what "
        f"{facts.references} retrainings give, as a share of what was memorized."
    )


def _asked(facts: Facts) -> str:
    """Say in which ways the model was asked, and for a certificate with what result."""
    names = [channel.name for channel in facts.otherwise]
    if not names:
        silent = [channel.name for channel in facts.claim.channels if channel.name != EXACT]
        listed = "It was not asked in other words, or in any other way."
        if silent:
            listed = f"It was asked in other ways, too, on none of which a statement is possible: {', '.join(silent)}."
    else:
        reworded = any(name.startswith(REWORDED) for name in names)
        words = "It was asked in other words, too" if reworded else "It was not asked in other words"
        listed = f"{words}; {_other_ways(facts, names)}."
    return listed


def _other_ways(facts: Facts, names: Sequence[str]) -> str:
    if facts.verdict != "EQUIVALENT_WITHIN":
        return f"the other ways of asking were {', '.join(names)}"
    certified = [name for name in channels_asked(facts.claim.channels) if name != EXACT]
    if not certified:
        return "no other way of asking was precise enough to certify"
    return f"within the same margin it is on {_counted(len(certified), 'other channel')}: {', '.join(certified)}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def explain(facts: Facts, reasons: Sequence[str]) -> tuple[str, ...]:
    """Explain the verdict in plain sentences: the comparison with retrained references first, then the reasons of other claims."""
    return (*_explain_record(facts), *reasons)


def _explain_record(facts: Facts) -> tuple[str, ...]:
    blocking = tuple(gate.reason for gate in facts.failed if gate.blocks == "NOT_TESTABLE")
    target = facts.claim.target
    if blocking or target is None:
        return blocking
    residual, margin = _residual(target.rho), facts.settings.margin
    test = target.record_test
    over = int((test.accused & ~test.remembered).sum())
    records = (
        f"{int(test.accused.sum())} of {target.records} records were found beyond the margin of {margin:g}: "
        f"{int(test.accused.sum()) - over} remembered, {over} over-forgotten."
    )
    people = target.subject_test
    if people is not None and people.accused.any():
        records += f" Of {len(people.p_values)} subjects, each tested by itself, {int(people.accused.sum())} are beyond it."
    channels = _explain_channels(facts)
    if facts.claim.accused_by:
        side = "better" if target.mean_residual > 0 else "worse"
        mean = f"On average the model predicts the set {side} than {facts.honest}, by more than the margin."
        exact = [*([mean] if target.mean_test.accused else []), records] if target.accused else [_exact_unaccused(facts)]
        return (residual, *exact, *channels)
    if facts.verdict == "EQUIVALENT_WITHIN":
        within = "Mean and spread of the residuals are within their limits, and no record was found beyond the margin."
        return (residual, within, *channels)
    open_tests = [name for name, shown in (("C1", target.mean_test.certified), ("C2", target.spread_test.certified)) if not shown]
    reasons = (
        [f"On the exact texts neither a residual beyond the margin nor equivalence was shown ({' and '.join(open_tests)} open)."]
        if open_tests
        else []
    )
    return (residual, *reasons, *channels, *(gate.reason for gate in facts.failed if gate.blocks == "INCONCLUSIVE"))


def _residual(rho: Estimate | None) -> str:
    value = "is not defined" if rho is None else f"is {rho.value:.3f} [{rho.low:.3f}, {rho.high:.3f}]"
    return f"The residual fraction {value}: 1 means untouched, 0 is what retraining gives, below 0 means over-forgotten."


def _exact_unaccused(facts: Facts) -> str:
    target = facts.claim.target
    assert target is not None
    if any(channel.accused and channel.name == EXACT for channel in facts.claim.channels):
        return "On the exact texts the difference is too small for references alone; controls, which vary with the model, show it."
    if target.certified:
        return "On the exact texts alone the model is within the margin; asked otherwise it is not."
    return "On the exact texts alone no residual beyond the margin was found."


def _explain_channels(facts: Facts) -> list[str]:
    """Say what each other way of asking showed: what accuses, what stays open, what could certify and did, what could not."""
    valid, margin = facts.otherwise, facts.settings.margin
    said = []
    if accusing := [channel for channel in facts.claim.channels if channel.accused]:
        said.append(
            f"Against never-trained controls, the model differs from {_others(facts)} by more than the margin of {margin:g} on "
            f"{len(accusing)} of {len(facts.claim.channels)} channels: {'; '.join(map(_named, accusing))}."
        )
    if unsettled := [channel for channel in facts.claim.open_channels if not channel.accused]:
        said.append(f"Not shown to be within the margin: {'; '.join(map(_named, unsettled))}.")
    if facts.verdict == "EQUIVALENT_WITHIN" and (shown := [channel for channel in valid if channel.certified]):
        said.append(f"Within the margin as well: {'; '.join(map(_named, shown))}.")
    if weak := [channel.name for channel in valid if not channel.certifiable and not channel.accused]:
        said.append(f"Too imprecise to certify, and not found beyond the margin: {', '.join(weak)}.")
    invalid = [channel.name for channel in facts.claim.channels if not channel.valid]
    references_alone = EXACT in invalid and facts.level_table is None
    if references_alone:
        said.append("Against never-trained controls no statement is possible on the exact texts; the references alone judge them.")
    if silent := [name for name in invalid if name != EXACT or not references_alone]:
        said.append(f"No statement is possible on: {', '.join(silent)}.")
    return said


def _others(facts: Facts) -> str:
    return "retrainings" if facts.level_table is None else "what the level table says"


def _named(channel: ChannelResult) -> str:
    residual = "" if channel.residual is None else f" {channel.residual.short()}"
    return f"{channel.name}{residual}{', over-forgotten' if channel.accused and channel.direction == 'over-forgotten' else ''}"


def not_shown(facts: Facts, controls: int, ratio: Value | None, canaries: bool) -> tuple[str, ...]:
    """State what the audit does not show, one sentence each."""
    reworded = any(channel.name.startswith(REWORDED) for channel in facts.otherwise)
    sentences = [
        *([] if facts.verdict == "NOT_FORGOTTEN" else [f"{CAN_BE_MADE} {DRAWN_AFTERWARDS}" if facts.otherwise else CAN_BE_MADE]),
        OTHER_WAYS if facts.otherwise else OTHER_WORDS,
        *(["Whether the model tells the same in other words was not asked."] if facts.otherwise and not reworded else []),
        *(
            ["The verdict is about the set: it cannot exclude that a single record is still remembered."]
            if facts.records > 1
            else []
        ),
        *([_not_shown_by_table(facts.level_table)] if facts.level_table is not None else []),
        *([LEVELS_UNCHECKED] if any(LEVELS_UNCHECKED in gate.reason for gate in facts.gates) else []),
        *(gate.reason for gate in facts.gates if gate.name == "planted subject" and gate.value is not None),
        *(gate.reason for gate in facts.gates if gate.name in UNTESTED and gate.passed is None),
        "An attack that fails is evidence of resistance to that attack, not to others (EDPB Opinion 28/2024, paragraph 55).",
        "What the base model learned in pre-training is outside this audit: a record it knew before fine-tuning is still there.",
        "Other copies of the records (data files, backups, other models) were not examined.",
    ]
    if canaries:
        sentences.append("Canaries test the deletion procedure on random texts; a person's records may be harder to remove.")
    if not controls:
        sentences.append(
            "Membership attacks and other ways of asking were not judged: no never-trained controls were given (--holdout FILE)."
        )
    if ratio is None:
        sentences.append("Whether the model still works was not examined: no retain set was given (--retain FILE).")
    return tuple(sentences)


def seen_by_attacks(attacks: Sequence[AttackResult]) -> tuple[str, ...]:
    """Report attacks that find more, or less, than in any reference: they have no vote, but must not be left out."""
    said = "Attacks have no vote in the verdict, but these"
    sentences = []
    if found := beyond_references(attacks, "membership"):
        seen = "distinguish the records from never-trained ones in this model unlike in any reference (AUC)"
        sentences.append(f"{said} {seen}: {'; '.join(found.values())}.")
    if found := beyond_references(attacks, "extraction"):
        seen = "extract the records from this model unlike from any reference (mean score)"
        sentences.append(f"{said} {seen}: {'; '.join(found.values())}.")
    return tuple(sentences)


def beyond_references(
    attacks: Sequence[AttackResult], family: Literal["membership", "extraction"], *, below: bool = True
) -> dict[str, str]:
    """Return attacks whose interval for the target lies beyond the intervals of all references (at least two), with numbers.

    Both orientations are read: a record that was pushed too far stands out too, with the sign reversed. A two-sided interval at
    level c leaves (1 - c) / 2 on each side, which is the price of two looks.

    Args:
        attacks: results on all models.
        family: family of the attacks to compare.
        below: whether values below all references count too.
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
        elif below and target.high < min(value.low for value in references):
            found[name] = f"{numbers} at least {min(value.value for value in references):.2f}"
    return found


def next_step(facts: Facts) -> str | None:
    """State what would settle an open verdict."""
    if facts.verdict in ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN"):
        return None
    failed = [gate.name for gate in facts.failed]
    if "retrained references" in failed:
        more = max(4 - facts.references, 1)
        return f"Train {more} more references without the forget set, each with a different --seed, and audit again."
    if facts.level_table is not None:
        return next_step_by_table(facts, [gate.name for gate in facts.failed if gate.blocks != "nothing"])
    if facts.verdict == "NOT_TESTABLE":
        return f"Fix what failed ({', '.join(failed)}) and audit again."
    if any(gate.name == "utility" and gate.passed is False for gate in facts.failed):
        return "Give references that were trained on the records to keep as the model was, and audit again."
    if "utility" in failed:
        return "Give the records that the model was to keep (--retain FILE) and audit again: whether it still works was not tested."
    if DISTINCT in failed:  # not evaluated: a failure is NOT_TESTABLE
        return (
            f"Give at least {ENOUGH_FOR_A_DISTANCE} different records to keep (--retain FILE), or as many never-trained "
            "ones (--holdout FILE), and audit again."
        )
    if "target among references" in failed:
        return (
            "Leave out the reference that the model is as close to as a copy, train another in its place (--seed), and audit again."
        )
    if "memorized records" in failed:
        return (
            "Audit the records that the original had memorized by themselves: about the others, which evidence.json lists as weak, "
            "no comparison of losses can say anything."
        )
    target = facts.claim.target
    if target is not None and target.certified and (unsettled := facts.claim.open_channels):
        listed = ", ".join(channel.name for channel in unsettled)
        return (
            f"On the exact texts the model is within the margin; open is {listed}. More forget records and more controls narrow "
            "that, and more unlearning moves it; more references hardly do either."
        )
    if facts.records == 1 and facts.references >= ENOUGH_FOR_ONE:
        return (
            "More references would hardly help: how much one record varies between retrainings does not shrink with their number. "
            "Audit it together with other records removed from the same model, or register a wider margin before unlearning."
        )
    more = max(8, 2 * facts.references)
    return f"Audit again with {more} references: every interval narrows as their number grows."


def next_step_by_table(facts: Facts, failed: Sequence[str]) -> str:
    """State what would settle an open verdict of a level table; a table cannot be made wider after the fact."""
    if "several subjects" in failed:
        return f"More numbers will not settle one subject. {BY_REEXECUTION} Or audit with retrained references (--references)."
    if facts.verdict == "NOT_TESTABLE":
        return f"Fix what failed ({', '.join(failed)}) and audit again, or audit with retrained references (--references)."
    if "utility" in failed:
        return "Give the records that the model was to keep (--retain FILE) and audit again: whether it still works was not tested."
    return (
        "A level table says as much as it can at once: more forget records in one batch and more controls in the next table narrow "
        f"it. Retrained references (--references) judge this deletion more precisely. {BY_REEXECUTION}"
    )


def _not_shown_by_table(used: LevelTableUsed) -> str:
    return (
        "That a model which never saw the records would score as the level table says rests on its "
        f"{used.models} models, each trained on a part of the people, and on never-trained controls: none was trained to check it."
    )
