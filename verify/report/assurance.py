"""What was checked of an audit's references and holdout records, and who vouches for the rest, in plain sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from verify.differences import ReferenceDifference
from verify.evidence import Evidence
from verify.findings import ReferenceCheck

ASKED: dict[ReferenceDifference, str] = {
    "forget": "no forget record was trained on",
    "holdout": "no holdout record was trained on",
    "retain": "the retain records were",
    "base": "the same base",
    "stages": "the same trainings in the same order",
    "recipe": "the same training options",
    "seed": "a seed of its own",
}
"""What a comparison without a difference showed. The others are about the folder itself and need no words."""


@dataclass(frozen=True)
class Said:
    """A sentence for page 1.

    Attributes:
        text: the sentence.
        warns: whether it says that something was not checked, or was accepted though it differs.
    """

    text: str
    warns: bool


def assurances(evidence: Evidence) -> list[Said]:
    """What page 1 says of the references and of the holdout records; nothing where the audit had neither."""
    return [*_references(evidence), *_holdout(evidence)]


def _references(evidence: Evidence) -> list[Said]:
    count = sum(model.role == "reference" for model in evidence.models)
    if not count:
        return []
    checks = evidence.references_checked
    if checks is None:
        return [
            Said(
                f"Not checked: what the {count} references were trained on. This audit is of a version that did not read their "
                "training logs; that they never saw the forget records is vouched for by whoever supplied them.",
                warns=True,
            )
        ]
    found = []
    if alike := [check for check in checks if check.checked]:
        asked = _common(alike)
        found.append(
            Said(
                f"The training logs of {_named(alike, count)} were read: {'; '.join(asked)}. A log is the word of whoever wrote "
                "it; only running a training again proves it.",
                warns=False,
            )
        )
    for reason, group in _by_reason([check for check in checks if not check.checked]).items():
        found.append(
            Said(
                f"Not checked: what {_named(group, count)} {'was' if len(group) == 1 else 'were'} trained on ({reason}). That no "
                "forget record was among it is vouched for by the operator, or whoever else supplied the models.",
                warns=True,
            )
        )
    for reason, group in _by_reason(alike).items():
        found.append(Said(f"Not compared for {_named(group, count)}: {reason}.", warns=True))
    accepted = [(check.label, difference.what) for check in checks for difference in check.accepted]
    return [*found, *(Said(f"Accepted by whoever ran the audit: {label}: {what}.", warns=True) for label, what in accepted)]


def _common(checks: Sequence[ReferenceCheck]) -> list[str]:
    """What all of several references were asked, and no accepted difference contradicts."""
    denied = {difference.kind for check in checks for difference in check.accepted}
    return [words for kind, words in ASKED.items() if kind not in denied and all(kind in check.compared for check in checks)] or [
        "they differ in all that was asked"
    ]


def _by_reason(checks: Sequence[ReferenceCheck]) -> dict[str, list[ReferenceCheck]]:
    """Checks by what could not be asked; a reason that several share is said once."""
    found: dict[str, list[ReferenceCheck]] = {}
    for check in checks:
        for reason in check.not_compared:
            found.setdefault(reason, []).append(check)
    return found


def _named(checks: Sequence[ReferenceCheck], count: int) -> str:
    """References as a sentence names them."""
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
