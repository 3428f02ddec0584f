"""Which methods fit a model, what they cost, and what an audit will be able to show: all of it before anything is run."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from unlearn.methods import method_classes
from unlearn.methods.auto import MINIMUM_REFERENCES, Auto, exact_method
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.shards import SavedShards, deletion_cost
from verify.auditing.power import certifying_row
from verify.errors import InputError
from verify.schema.evidence import Settings
from verify.statistics.simulation import World

SMALLEST_SET = 2
"""Of people, to tune a method on one and judge it on the other; of references and of records to keep, to see a spread."""
ONE_RECORD = (
    ". One record is judged by itself, and stays open more often than a set, whatever was done. What helps: let the request wait "
    "for others that touch this model, where its deadline allows; or go by the exact rebuild where the audit leaves it open "
    "(`unlearn request run ID --accept-exact-rebuild`), which the certificate then says in these words"
)


def require_methods(names: Sequence[str]) -> None:
    """Raise InputError where one is no method: `run` would find that out after it has registered what it audits."""
    if unknown := [name for name in names if name not in method_classes()]:
        raise InputError(f"{unknown[0]!r} is no method. Use any of: {', '.join(sorted(method_classes()))}.")


def ladder(folder: Path, records: Collection[str], people: int, references: int, preferred: Sequence[str]) -> tuple[str, ...]:
    """Methods in the order in which they are tried; the last is an exact rebuild.

    Args:
        folder: of the model.
        records: keyed hashes of what is removed.
        people: whose records these are; `auto` needs two, to tune on one and judge on the other.
        references: how many retrained models can judge an approximate method.
        preferred: methods that the operator wants tried first.
    """
    exact = exact_method(folder)
    if exact == "rollback" and not _clean_checkpoint(folder, records):
        exact = "retrain"
    if preferred:
        return tuple(dict.fromkeys((*preferred, exact)))
    if exact == "rollback":
        return (exact, "retrain")
    if exact == "retrain" and references >= MINIMUM_REFERENCES and people >= SMALLEST_SET:
        return ("auto", "retrain")
    return (exact,)


def cost(method: str, folder: Path, records: Collection[str], people: int) -> tuple[float | None, str]:
    """Expected cost of a method in retrainings, by tokens or steps, and the same in words; None where it is not known before."""
    if method in ("sisa", "shard_vectors"):
        plan = SavedShards.read(folder).plan
        share = deletion_cost(plan.shards, plan.slices, people).expected
        return share, f"about {share:.0%} of a retraining: {people} people, {plan.shards} shards of {plan.slices} slices"
    if method == "rollback":
        log = TrainingLog.read(folder / LOG_NAME)
        steps = max(1, max((entry.step for entry in log.microbatches), default=0))
        start = _clean_checkpoint(folder, records)
        share = (steps - start) / steps
        return share, f"{share:.0%} of a retraining: the schedule again from step {start} of {steps}, before the first record"
    if method == "retrain":
        return 1.0, "a whole retraining"
    if method == "auto":
        return None, f"at most {Auto().budget:g} retrainings: cheap methods first, each audited, then an exact rebuild"
    return None, "a few passes over the records; where the audit is not satisfied, the next method beside"


def shown(records: int, references: int, settings: Settings) -> str:
    """What the audit of so many records will be able to show, in words."""
    alone = ONE_RECORD if records == 1 else ""
    if references < SMALLEST_SET:
        return (
            f"nothing yet: {references} retrained references. Train at least {MINIMUM_REFERENCES} without these records, with "
            f"other seeds, and name them with --references{alone}"
        )
    row = certifying_row(replace(World(), records=records), references, settings)
    size = "one record" if records == 1 else f"{records} records"
    return f"{row.given} of an honest deletion of {size} certify it with {references} references; {row.needed} for 80 %{alone}"


def _clean_checkpoint(folder: Path, records: Collection[str]) -> int:
    """Step of the last checkpoint that is still there from before the first of the records was seen; 0 where there is none."""
    log = TrainingLog.read(folder / LOG_NAME)
    rows = {row for row, name in enumerate(log.records) if name in records}
    first = min((entry.step for entry in log.microbatches if rows & set(entry.records)), default=0)
    return max((step for step, name in log.checkpoints if step < first and (folder / name).is_dir()), default=0)
