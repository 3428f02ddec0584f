"""Candidate methods of a model, their expected cost, and what will judge the result, all known before anything is run."""

from collections.abc import Collection, Sequence
from pathlib import Path

from unlearn.methods import method_classes
from unlearn.methods.auto import MINIMUM_REFERENCES, Auto, exact_method
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.shard_cost import deletion_cost
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.provenance.shard_plan import ShardsDescription

SMALLEST_SET = 2
"""Fewest people (one half tunes `auto`, the other judges it), references and retain records (for a spread) that suffice."""
FEW_PEOPLE = 8
"""Fewest people whose honest retraining an audit with four references certifies more often than not: 6 of 10 audits of eight
people, 6 of 15 of four or six, none of 25 of one or two (benchmarks/results/deletion_sequence.md). For fewer, a rebuild that can be
executed again is preferred to an approximate method that only an audit can judge."""
EXECUTABLE = ("retrain", "rollback", "sisa", "shard_vectors")
"""Exact rebuilds that `verify.reexecution` can execute again."""
FROM_LOG = ("rollback", "sisa", "shard_vectors")
"""Those whose proof starts from the log before the deletion, which must have been committed to before the request. A retraining's
schedule follows from its options and seed."""
ONE_RECORD = (
    ". The audit of a single record is inconclusive more often than that of a set, even after an honest deletion. To improve the "
    "odds, let the request wait for others that touch this model, where its deadline allows; or accept an exact rebuild whose "
    "audit is inconclusive (`unlearn request run ID --accept-exact-rebuild`), which the certificate then states"
)


def require_methods(names: Sequence[str]) -> None:
    """Check that all names are methods; `run` would find out only after it has registered its audits.

    Raises:
        InputError: a name is not a method.
    """
    if unknown := [name for name in names if name not in method_classes()]:
        raise InputError(f"{unknown[0]!r} is not a method. Use any of: {', '.join(sorted(method_classes()))}.")


def candidate_methods(
    folder: Path,
    records: Collection[str],
    people: int,
    references: int,
    preferred: Sequence[str],
    provable: bool = False,
    committed: bool = False,
    by_table: bool = False,
) -> tuple[str, ...]:
    """Return the candidate methods in the order in which they are tried; the last is an exact rebuild.

    Args:
        folder: the model's folder.
        records: keyed hashes of the records to remove.
        people: number of people these are about; `auto` needs two, one for tuning and one for judging.
        references: number of retrained models for the audit; an approximate method needs at least `MINIMUM_REFERENCES`.
        preferred: methods that the operator wants tried first.
        provable: whether an exact rebuild of this model can be executed again.
        committed: whether its training was committed to before the requests.
        by_table: whether a level table judges: an approximate method is then audited for one forward pass.
    """
    exact = exact_method(folder)
    if exact == "rollback" and not clean_checkpoint(folder, records):
        exact = "retrain"
    if preferred:
        return tuple(dict.fromkeys((*preferred, exact)))
    audited = references >= MINIMUM_REFERENCES
    few = provable and people < FEW_PEOPLE
    if exact == "rollback":
        # Without a commitment the proof of a rollback does not put it into service; that of a retraining does.
        return ("retrain",) if provable and not committed and (few or not audited) else (exact, "retrain")
    if exact == "retrain" and by_table and people >= SMALLEST_SET and not few:
        return ("level", "retrain")
    if exact == "retrain" and audited and people >= SMALLEST_SET and not few:
        return ("auto", "retrain")
    return (exact,)


def expected_cost(method: str, folder: Path, records: Collection[str], people: int) -> tuple[float | None, str]:
    """Return the expected cost of a method as a share of a retraining (None if unknown beforehand), and the same in words."""
    if method in ("sisa", "shard_vectors"):
        return _shards_cost(folder, records, people)
    if method == "rollback":
        log = TrainingLog.read(folder / LOG_NAME)
        steps = max((entry.step for entry in log.microbatches), default=0)
        start = clean_checkpoint(folder, records)
        share = _share_after(log, records, start)
        return (
            share,
            f"{share:.1%} of a retraining: training repeated from step {start} of {steps}, before the first of the records",
        )
    if method == "retrain":
        return 1.0, "a full retraining"
    if method == "auto":
        return None, f"at most {Auto().budget:g} retrainings: cheap methods first, each audited, then an exact rebuild"
    return None, "a few passes over the records, plus the next method if the audit does not certify the result"


def proof_share(method: str, folder: Path, records: Collection[str], committed: bool) -> float:
    """Return the expected cost of executing an exact rebuild again, as a share of a retraining.

    With a commitment, states and stages from before the records need not be executed again; without one, everything is.
    """
    if method in ("sisa", "shard_vectors") and committed:
        return _shards_cost(folder, records, 1)[0]
    if method == "rollback" and committed:
        log, start = TrainingLog.read(folder / LOG_NAME), clean_checkpoint(folder, records)
        if any(one.step == start and one.optimizer is not None for one in log.boundaries):
            return _share_after(log, records, start)
    return 1.0


def _shards_cost(folder: Path, records: Collection[str], people: int) -> tuple[float, str]:
    """Return the share of the stages that held the records, by the tokens that they were trained on, and the same in words.

    Where the stages do not name their tokens (release 0.1.0), the share is that of the average person.
    """
    about = ShardsDescription.read(folder)
    average = deletion_cost(about.shards, about.slices, people).expected
    division = f"{about.shards} shards of {about.slices} slices"
    first: dict[int, int] = {}  # of the slices of each shard that held one of the records
    for name in set(records) & about.records.keys():
        shard, stage = about.records[name]
        first[shard] = min(stage, first.get(shard, stage))
    tokens = {
        (shard, stage): int(read_json(folder / f"shard-{shard}" / f"slice-{stage}" / MANIFEST)["about"].get("tokens", 0))
        for shard in range(about.shards)
        for stage in range(about.slices)
    }
    if not any(tokens.values()):
        return average, f"about {average:.1%} of a retraining: {people} people, {division}"
    again = [place for place in tokens if place[0] in first and place[1] >= first[place[0]]]
    share = sum(tokens[place] for place in again) / sum(tokens.values())
    return share, f"{share:.1%} of a retraining: {len(again)} of {len(tokens)} stages ({division}; {average:.1%} on average)"


def _share_after(log: TrainingLog, records: Collection[str], step: int) -> float:
    """Return the share of a schedule without the records that comes after a step, by the windows that it uses."""
    kept = {row for row, name in enumerate(log.records) if name not in records}
    used = [(entry.step, len(kept.intersection(entry.records))) for entry in log.microbatches]
    return sum(count for at, count in used if at > step) / max(1, sum(count for _, count in used))


def describe_judge(records: int, references: int) -> str:
    """Name in words what will judge an audit by references, or what is lacking."""
    if references < SMALLEST_SET:
        return (
            f"nothing yet, with {references} retrained references. Train at least {MINIMUM_REFERENCES} without these records, with "
            f"different seeds, and name them with --references{ONE_RECORD if records == 1 else ''}"
        )
    return f"judged by {references} references"


def clean_checkpoint(folder: Path, records: Collection[str]) -> int:
    """Return the step of the last existing checkpoint from before any of the records was seen; 0 if there is none."""
    log = TrainingLog.read(folder / LOG_NAME)
    rows = {row for row, name in enumerate(log.records) if name in records}
    first = min((entry.step for entry in log.microbatches if rows & set(entry.records)), default=0)
    return max((step for step, name in log.checkpoints if step < first and (folder / name).is_dir()), default=0)
