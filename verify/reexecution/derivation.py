"""Derivation of a deletion: what it must have done, from its records, logs and models, and what contradicts that.

All of it before a step is executed:

    log of the deletion == committed log without the forget records     (or: the schedule that options and seed give)
    every record of it was shown, none is a forget record or nearly one
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verify.data.identity import RecordKey
from verify.models.configuration import entries_of
from verify.models.loading import load_model
from verify.provenance.commitment import TrainingCommitment
from verify.reexecution.environment import about_software
from verify.reexecution.plans import Plan
from verify.reexecution.records import Shown
from verify.reexecution.request import Request
from verify.reexecution.served import Served
from verify.reexecution.tolerance import about_states
from verify.schema.reexecution import Finding, Likeness


@dataclass(frozen=True, eq=False, repr=False)
class Derivation:
    """What a deletion must have done.

    Attributes:
        plan: what is to be executed.
        shown: the records.
        commitment: made before the request, or None.
        served: the deleted model as it is loaded.
        base, tokenizer: digests of the model that training started from.
        device: that the logs were made on, "cpu" or None for a GPU.
        near: training records that are nearly a forget record; empty where something else contradicts the claim already.
        findings: what contradicts the claim.
    """

    plan: Plan
    shown: Shown
    commitment: TrainingCommitment | None
    served: Served
    base: str
    tokenizer: str
    device: str | None
    near: tuple[Likeness, ...]
    findings: tuple[Finding, ...]


def derive(request: Request, key: RecordKey, accept_near: bool, progress: Callable[[str, float], None]) -> Derivation:
    """Read records, logs and models, and derive what is to be executed.

    Args:
        request: what is given.
        key: the record key.
        accept_near: whether training records that are nearly a forget record may stay.
        progress: callback `(message, fraction_done)`.

    Raises:
        InputError: logs, models or records cannot be read.
    """
    shown, commitment = request.shown(key), request.committed()
    progress("loading", 0.0)
    served = _served(request)
    start, device = request.load_base(), request.device
    base, tokenizer = start.digest, start.tokenizer_digest
    findings = list(served.findings(start))
    plan = request.plan(shown, start)
    del start  # every run of segments loads the base again: one model is in memory
    findings += [*plan.findings, *shown.findings(plan.used)]
    near = () if findings else shown.near(plan.used)
    findings += _about_near(near, accept_near)
    findings += _about_end(plan, served)
    findings += about_states(plan.courses) if request.tolerance else about_software(plan.segments(), device)
    if not findings and not plan.segments():
        findings.append(Finding(kind="records", what="Nothing was trained, so there is nothing to execute."))
    return Derivation(plan, shown, commitment, served, base, tokenizer, device, near, tuple(findings))


def _served(request: Request) -> Served:
    """Load the deleted model and keep what identifies it."""
    target = load_model(request.model, tokenizer=request.tokenizer)
    return Served(target.digest, target.tokenizer_digest, entries_of(target.model))


def _about_near(near: Sequence[Likeness], accepted: bool) -> list[Finding]:
    """Name training records that are nearly a forget record, unless they are accepted."""
    if not near or accepted:
        return []
    records = "1 training record is" if len(near) == 1 else f"{len(near)} training records are"
    return [
        Finding(
            kind="near-duplicate",
            what=(
                f"{records} nearly a forget record, or one with more text around it (similarity up to {near[0].similarity:.2f}). "
                "Remove what is not to stay, or have a person look at each and accept them with --accept-near-duplicates."
            ),
        )
    ]


def _about_end(plan: Plan, served: Served) -> list[Finding]:
    """Check that the training ends with the weights that are served."""
    if plan.final is None or plan.final == served.weights:
        return []
    return [Finding(kind="weights", what="The model's weights are not those that its training ends with.")]
