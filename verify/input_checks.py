"""Checks an audit's models against its records before anything is scored: what references were trained on, what the method read."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from verify.canaries import Canaries
from verify.errors import InputError
from verify.findings import AcceptedDifference, HoldoutCheck, ReferenceCheck, SetRole
from verify.holdout import check_holdout
from verify.identity import RecordKey
from verify.models import load_tokenizer
from verify.records import Record
from verify.reference_checks import KINDS, Expected, check_references

USED_HOLDOUT = "used_holdout"
"""What `accept` names where the unlearning may have read the holdout set."""


@dataclass(frozen=True)
class CheckedInputs:
    """What the evidence says of the checks; fields as there."""

    references: tuple[ReferenceCheck, ...]
    holdout: HoldoutCheck | None

    def with_same_weights(self, twins: Mapping[str, str]) -> "CheckedInputs":
        """The same with references that turned out, once loaded, to have the weights of another model.

        Args:
            twins: label -> label of the other model; accepted by whoever asked for the audit.
        """
        listed = []
        for check in self.references:
            accepted = check.accepted
            if check.label in twins and not any(difference.kind == "weights" for difference in accepted):
                accepted += (AcceptedDifference(kind="weights", what=f"it has the very weights of {twins[check.label]}"),)
            listed.append(check.model_copy(update={"accepted": accepted}))
        return replace(self, references=tuple(listed))


def check_inputs(
    models: Mapping[str, Any],
    references: Sequence[Any],
    sets: Mapping[SetRole, Sequence[Record]],
    canaries: Canaries | None,
    key: RecordKey,
    tokenizer: Any,
    accept: Collection[str],
) -> CheckedInputs:
    """Check the references' trainings and the unlearning's holdout records, by logs and manifests.

    Args:
        models: "original", "target" and, where there is one, "base".
        references: the references.
        sets: the audit's records, with all retain records.
        canaries: those that the original was trained on, if any.
        key: the record key.
        tokenizer: for models in memory.
        accept: differences that are meant; see `verify.audit`.

    Raises:
        InputError: a reference or the holdout set cannot be used, or `accept` names an unknown difference.
    """
    accept = {accept} if isinstance(accept, str) else accept
    unknown = sorted(set(accept) - {*KINDS, USED_HOLDOUT})
    if unknown:
        raise InputError(f"{unknown[0]!r} is nothing that can be accepted. Use any of: {', '.join((*KINDS, USED_HOLDOUT))}.")
    names = {role: frozenset(key.of(record.fingerprint) for record in records) for role, records in sets.items()}
    expected = Expected(
        forget=names["forget"],
        retain=names.get("retain"),
        holdout=names.get("holdout", frozenset()),
        # Where a retain set is given, it says what references must know, and canaries are in none.
        canaries=_canary_names(canaries, models["original"], key, tokenizer)
        if references and "retain" not in names
        else frozenset(),
        key=key,
    )
    checked = check_references(references, models, expected, set(accept) - {USED_HOLDOUT})
    holdout = check_holdout(models["target"], sets["holdout"], key, USED_HOLDOUT in accept) if "holdout" in sets else None
    return CheckedInputs(checked, holdout)


def _canary_names(canaries: Canaries | None, original: Any, key: RecordKey, tokenizer: Any) -> frozenset[str]:
    """Keyed hashes of the canaries that the original was trained on; their texts follow from its tokenizer."""
    if canaries is None:
        return frozenset()
    own = tokenizer if tokenizer is not None else load_tokenizer(original)
    return frozenset(key.of(record.fingerprint) for record in canaries.trained_records(own))
