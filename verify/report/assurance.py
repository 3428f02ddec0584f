"""Sentences on what was checked about an audit's references or level table, holdout records, configurations and adapter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from verify.schema.differences import ReferenceDifference
from verify.schema.evidence import Evidence
from verify.schema.inputs import ReferenceCheck
from verify.schema.judged_by import FIRST_TABLE_RULE, LevelTableUsed, looks_in_words
from verify.schema.near_duplicates import left_in_words

ASKED: dict[ReferenceDifference, str] = {
    "forget": "no forget record was trained on",
    "holdout": "no holdout record was trained on",
    "retain": "the retain records were trained on",
    "base": "the same base",
    "stages": "the same trainings in the same order",
    "recipe": "the same training options",
    "seed": "a different seed",
}
"""What a comparison without a difference shows. The other kinds are about the folder itself and need no sentence."""


@dataclass(frozen=True)
class Said:
    """One sentence of page 1 on what was, or was not, checked.

    Attributes:
        text: the sentence.
        warns: whether it says that something was not checked, or was accepted though it differs.
    """

    text: str
    warns: bool


def margin_note(evidence: Evidence) -> str | None:
    """Say, where nothing was registered, at which margin the verdict would turn; None by rule 1 or with a registration."""
    if evidence.pre_registered or evidence.settings.rule == 1:
        return None
    chosen = f"The margin rho* = {evidence.settings.margin:g} was not registered."
    failed = [gate.name for gate in evidence.gates if not gate.passed and "record" in gate.claims and gate.blocks != "nothing"]
    if failed:
        return f"{chosen} Validity checks that did not pass forbid a certificate, whatever the tests show: {', '.join(failed)}."
    if evidence.smallest_margin is None:
        return f"{chosen} No margin up to one half would certify this model."
    return (
        f"{chosen} The smallest margin at which the same tests would certify is rho* = {evidence.smallest_margin:.3f}; a margin "
        "chosen after looking can always be made wide enough."
    )


def assurances(evidence: Evidence) -> list[Said]:
    """Return the sentences about earlier audits, references or level table, other records, configurations and adapters."""
    judge = _references(evidence) if evidence.level_table is None else _level_table(evidence.level_table, evidence)
    return [
        *_looks(evidence),
        *_account(evidence),
        *judge,
        *_siblings(evidence),
        *_innocence(evidence),
        *_holdout(evidence),
        *_near_duplicates(evidence),
        *_configurations(evidence),
        *_adapter(evidence),
    ]


def _looks(evidence: Evidence) -> list[Said]:
    """Name earlier audits of the same weights: a verdict that came on the third look is not one that came on the first."""
    return [Said(looks_in_words(evidence.looks), warns=True)] if evidence.looks else []


def _account(evidence: Evidence) -> list[Said]:
    """Count the audits against the same controls; a first one that is not part of a plan needs no sentence."""
    account = evidence.account
    if account is None or (account.number == 1 and account.expected is None):
        return []
    return [Said(account.said(evidence.settings.alpha), warns=account.spent > evidence.settings.alpha)]


def _level_table(used: LevelTableUsed, evidence: Evidence) -> list[Said]:
    """Say which table judged, of what age, by whose word, and what left it since."""
    before = next((gate.passed for gate in evidence.gates if gate.name == "table before the request"), None)
    age = ", before the registration of this audit" if before else ""
    rule = evidence.settings.rule
    found = [
        Said(
            f"Judged against {used.what}, made on {used.created[:10]}{age}; no retrained references. Its {used.controls} "
            f"never-trained controls calibrate it (rule {rule}); its models were destroyed on {used.destroyed[:10]}.",
            warns=False,
        )
    ]
    if not before:
        found.append(
            Said("Not shown: that the level table is older than the request. No registration from before names it.", warns=True)
        )
    if rule == FIRST_TABLE_RULE:
        asks = f"rule {rule}, by which this audit was made, does not ask"
        found.append(Said(f"Not checked: whether the model treats hard controls as it treats easy ones; {asks}.", warns=True))
    if used.descended:
        earlier = "by earlier deletions, as its manifest says"
        found.append(Said(f"The model before unlearning was made from the level table's {earlier}.", warns=False))
    if used.judging < used.models:
        found.append(
            Said(
                f"The unlearning read {used.models - used.judging} of the table's models; the other {used.judging} judged.",
                warns=False,
            )
        )
    whose = "nobody" if used.signer is None else used.signer[:16]
    signed = f"The table is signed by {whose}, a key that the auditor was given to verify it with."
    if not used.trusted:
        signed = f"Not checked: the signature of the level table ({whose}); no key to trust was given (--level-table-key)."
    word = "That its numbers are those of models trained as it says, and that these are gone, is the word of whoever made it."
    found.append(Said(f"{signed} {word}", warns=not used.trusted))
    if gone := used.rows_signed - used.rows:
        left = f"{gone} of its {used.rows_signed} rows have left it since, as rows of records that are deleted do."
        found.append(Said(left, warns=False))
    if used.controls_signed is not None and (gone := used.controls_signed - used.controls):
        left = f"{gone} of its {used.controls_signed} controls for the audit have left it since it was signed"
        chosen = "which of them left is the word of whoever keeps it, and a choice among controls can be made to fit a verdict"
        found.append(Said(f"{left}: {chosen}.", warns=True))
    return found


def _references(evidence: Evidence) -> list[Said]:
    count = sum(model.role == "reference" for model in evidence.models)
    if not count:
        return []
    checks = evidence.references_checked
    if checks is None:
        return [
            Said(
                f"Not checked: what the {count} references were trained on. The version that made this audit did not read training "
                "logs; whoever supplied the references vouches that they never saw the forget records.",
                warns=True,
            )
        ]
    found = []
    if alike := [check for check in checks if check.checked]:
        asked = _common(alike)
        found.append(
            Said(
                f"The training logs of {_named(alike, count)} were read: {'; '.join(asked)}. A log is the word of whoever wrote "
                "it; only running the training again would prove it.",
                warns=False,
            )
        )
    for reason, group in _by_reason([check for check in checks if not check.checked]).items():
        found.append(
            Said(
                f"Not checked: what {_named(group, count)} {'was' if len(group) == 1 else 'were'} trained on ({reason}). The "
                "operator, or whoever else supplied the models, vouches that no forget record was among it.",
                warns=True,
            )
        )
    for reason, group in _by_reason(alike).items():
        found.append(Said(f"Not compared for {_named(group, count)}: {reason}.", warns=True))
    found += _executed(checks, count)
    accepted = [(check.label, difference.what) for check in checks for difference in check.accepted]
    return [*found, *(Said(f"Accepted by whoever ran the audit: {label}: {what}.", warns=True) for label, what in accepted)]


def _siblings(evidence: Evidence) -> list[Said]:
    """Say what ranked the rebuilt shards, by whose word, and what such a rank cannot show."""
    found = evidence.siblings
    if found is None:
        return []
    logs = "by their training logs none of them saw these records, these people or the controls; a log is its writer's word"
    floor = f"no p-value lies below 1 / {found.shards} = {found.smallest:.3g}"
    able = f"it accuses from {found.needed} shards on" if found.shards < found.needed else "it can accuse"
    said = f"Ranked among {found.shards} shards: {logs}. The rank is exact, {floor}; {able}, and certifies nothing."
    return [Said(said, warns=found.shards < found.needed)]


def _executed(checks: Sequence[ReferenceCheck], count: int) -> Iterator[Said]:
    """Say of which references the training was executed again, and what the others rest on."""
    done = [(check.label, check.execution) for check in checks if check.execution is not None]
    if not done:
        return
    named = ", ".join(f"{label} ({execution.phrase})" for label, execution in done)
    rest = "" if len(done) == count else f" The other {count - len(done)} of {count} rest on their logs."
    yield Said(
        f"The training was executed again, from the base on and without the forget records, of {named}.{rest} "
        "A proof is an unsigned file: the word of whoever executed the training.",
        warns=False,
    )


def _innocence(evidence: Evidence) -> list[Said]:
    """Say what besides the logs speaks for the references: their scores, and what nobody did."""
    gate = next((gate for gate in evidence.gates if gate.name == "innocent references"), None)
    if gate is None:
        return []
    scores = {
        True: "By their scores, no reference recognises the forget subjects among never-trained controls. ",
        False: "By its scores, at least one reference recognises the forget subjects among never-trained controls. ",
    }
    again = any(check.execution is not None for check in evidence.references_checked or ())
    proof = "The references' seeds were not registered."
    if not again:
        proof = f"{proof[:-1]}, and none was trained again for this audit; only that would be proof."
    # Where the scores could not be searched, the evidence itself says why.
    return [Said(f"{'' if gate.passed is None else scores[gate.passed]}{proof}", warns=gate.passed is not True)]


def _common(checks: Sequence[ReferenceCheck]) -> list[str]:
    """Return what was checked for all of these references and is not contradicted by an accepted difference."""
    denied = {difference.kind for check in checks for difference in check.accepted}
    return [words for kind, words in ASKED.items() if kind not in denied and all(kind in check.compared for check in checks)] or [
        "they differ in every point that was checked"
    ]


def _by_reason(checks: Sequence[ReferenceCheck]) -> dict[str, list[ReferenceCheck]]:
    """Group checks by the reason why something could not be compared, so that a shared reason is given once."""
    found: dict[str, list[ReferenceCheck]] = {}
    for check in checks:
        for reason in check.not_compared:
            found.setdefault(reason, []).append(check)
    return found


def _named(checks: Sequence[ReferenceCheck], count: int) -> str:
    """Name these references in a sentence."""
    if len(checks) == count:
        return "the reference" if count == 1 else f"all {count} references"
    return ", ".join(check.label for check in checks)


def _holdout(evidence: Evidence) -> list[Said]:
    check = evidence.holdout_checked
    if check is None:
        return []
    if check.used is None:
        return [
            Said(
                f"Not checked: whether the unlearning was fitted to the {check.records} holdout records of this audit "
                f"({check.reason}).",
                warns=True,
            )
        ]
    if check.used:
        return [
            Said(
                f"Accepted by whoever ran the audit: the unlearning ({check.method}) read {check.used} of the {check.records} "
                "holdout records that this audit compares with.",
                warns=True,
            )
        ]
    return [
        Said(
            f"By the model's manifest, the unlearning read none of the {check.records} holdout records of this audit.", warns=False
        )
    ]


def _near_duplicates(evidence: Evidence) -> list[Said]:
    """Say how many near-duplicates of the forget records stay, and how many of the findings they may explain."""
    by_table, left = evidence.level_table is not None, evidence.near_duplicates
    if left is None:
        known = any(entry.role == "retain" for entry in evidence.sets)
        why = "the version that made this audit did not look for them" if known else "no records to keep were given (--retain FILE)"
        what = "Not examined: whether near-duplicates of the forget records stay, which an accusation could be about"
        return [Said(f"{what}; {why}.", warns=True)] if by_table else []
    if not left.records and not by_table:
        return []
    said = left_in_words(left.compared, left.records, len(left.forget), by_table=by_table)
    theirs = len({finding.record for finding in evidence.accused} & set(left.forget))
    if theirs:
        said += f" Of {len(evidence.accused)} records found beyond the margin, {theirs} {'has' if theirs == 1 else 'have'} one."
    return [Said(said, warns=bool(left.records))]


def _configurations(evidence: Evidence) -> list[Said]:
    """Name every entry in which a model's configuration or precision differs from the original's."""
    by_entry: dict[tuple[str, str, str], list[str]] = {}
    for one in evidence.configuration_differences or ():
        by_entry.setdefault((one.entry, one.value, one.original), []).append(one.label)
    found = []
    for (entry, value, original), labels in by_entry.items():
        what = f"{', '.join(labels)}: {entry} is {value}, in the model before unlearning {original}."
        said = "Loaded in another precision" if entry == "dtype" else "Accepted by whoever ran the audit: another configuration"
        found.append(Said(f"{said}: {what}", warns=True))
    return found


def _adapter(evidence: Evidence) -> list[Said]:
    found = evidence.without_adapter
    return [] if found is None else [Said(found.reason, warns=found.state != "knows no more")]
