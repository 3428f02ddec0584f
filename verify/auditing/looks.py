"""Earlier audits of the same weights, counted so that auditing until the verdict is the wanted one shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.provenance.training_history import history_of
from verify.schema.evidence import Evidence
from verify.schema.judged_by import Look


def read_looks(paths: Sequence[str | Path], model: Any) -> list[Evidence]:
    """Read earlier audits; those of other weights are refused now, if the model's manifest says which it has.

    Raises:
        InputError: a file cannot be read, or is an audit of other weights.
    """
    history = history_of(model)
    found = [Evidence.load(path) for path in paths]
    if history is not None and history.weights is not None:
        _require_same_weights(found, history.weights)
    return found


def found_looks(earlier: Sequence[Evidence], evidence: Evidence) -> tuple[Look, ...] | None:
    """List the earlier audits of these weights, those that they list themselves included, oldest first; None without any.

    Of an audit that is only listed by another, the list says whether it had the records of that one. Where both have others than
    theirs, it may still have had these: it is not said to be about other records.

    Args:
        earlier: evidence of earlier audits.
        evidence: evidence of this one.

    Raises:
        InputError: one of them is about other weights.
    """
    _require_same_weights(earlier, weights_of(evidence))
    found: dict[str, Look] = {}
    for one in earlier:
        alike = look_at(one, evidence).same_records
        for look in one.looks or ():
            of_these = look.same_records if alike else not look.same_records
            found[look.evidence] = look.model_copy(update={"same_records": of_these})
    found |= {one.digest: look_at(one, evidence) for one in earlier}
    listed = sorted(found.values(), key=lambda look: (look.created, look.evidence))
    return tuple(listed) or None


def _require_same_weights(earlier: Sequence[Evidence], weights: str) -> None:
    for number, one in enumerate(earlier, 1):
        if (theirs := weights_of(one)) != weights:
            raise InputError(
                f"look {number} is an audit of the weights {theirs[:16]}, this one is of {weights[:16]}. Give earlier audits of "
                "the same model only; those of other deletions are given with --earlier."
            )


def look_at(one: Evidence, evidence: Evidence) -> Look:
    """Describe an earlier audit as the evidence of a later one names it."""
    return Look(
        created=one.created,
        verdict=one.verdict,
        judged_by=judge_of(one),
        evidence=one.digest,
        same_records=one.set("forget").digest == evidence.set("forget").digest,
        registration=None if one.registration is None else one.registration.digest,
    )


def judge_of(evidence: Evidence) -> str:
    """Say in two or three words what judged an audit."""
    if evidence.level_table is not None:
        return "a level table"
    references = sum(model.role == "reference" for model in evidence.models)
    return {0: "no references", 1: "1 reference"}.get(references, f"{references} references")


def weights_of(evidence: Evidence) -> str:
    """Return the digest of the audited weights."""
    return next(model.weights for model in evidence.models if model.role == "target")
