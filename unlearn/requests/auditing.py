"""Audit an attempt's result as registered, exactly once."""

from collections.abc import Sequence
from pathlib import Path

from unlearn.requests.audit_inputs import audit_arguments
from unlearn.requests.audit_numbers import noting_scores
from unlearn.requests.batch_folder import CACHE, REGISTRATION, attempt_folder, audit_folder, clear_if_cut_off, model_folder
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.registering import registered
from unlearn.requests.training_sets import TrainingSets
from verify import audit
from verify.auditing.accounts import audits_shown
from verify.io.files import is_complete
from verify.io.progress import phase
from verify.schema.evidence import Evidence


def audit_attempt(
    folder: Path,
    plan: Plan,
    model: PlannedModel,
    attempt: int,
    sets: TrainingSets,
    references: Sequence[str],
    audited_before: int | None = None,
) -> Evidence:
    """Audit an attempt's result as registered, unless that is done.

    Args:
        folder: folder of the batch.
        plan, model, attempt: which model, and which of its candidate methods.
        sets: the records.
        references: the references.
        audited_before: earlier audits against the same controls, as the ledger counts them; None where it does not.
    """
    output = audit_folder(folder, plan, model, attempt, references)
    clear_if_cut_off(output, "audit")
    if not is_complete(output, "audit"):
        looks = other_audits(output, attempt)
        # The ledger has no number of audits that earlier versions made; then the evidence is counted.
        shown = audits_shown([Evidence.load(path) for path in looks], registered(folder, plan, model).controls)
        counted = None if audited_before is None or audited_before < shown else audited_before
        with phase("auditing") as done:
            audit(
                str(attempt_folder(folder, plan, model, attempt)),
                model.folder,
                **audit_arguments(plan, model, sets, references),
                output_dir=output,
                registration=model_folder(folder, plan, model) / REGISTRATION,
                looks=looks,
                audited_before=counted,
                cache_dir=folder / CACHE,
                progress=noting_scores(output, done),
            )
    return Evidence.load(output / "evidence.json")


def other_audits(output: Path, attempt: int) -> list[Path]:
    """Return the evidence of an attempt's finished audits against other references than the audit in a folder."""
    others = sorted(output.parent.glob(f"audit-{attempt}-*/evidence.json"))
    return [path for path in others if path.parent != output and is_complete(path.parent, "audit")]
