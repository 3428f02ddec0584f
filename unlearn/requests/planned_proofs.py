"""Planned proofs: whether an exact rebuild can be executed again, on which commitment the proof can rest, and what it will cost.

A commitment counts if it is older than the requests. Without one, states and stages that the deletion left as they were are the
operator's word, and a re-execution starts from the base.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from unlearn.requests.candidates import EXECUTABLE, FROM_LOG, proof_share
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import PlannedProof
from unlearn.requests.request_facts import facts_of
from unlearn.training.log import LOG_NAME, TrainingLog
from verify.data.canaries import CANARIES_NAME
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json
from verify.provenance.commitment import TrainingCommitment, commitment_root

COMMITMENT = "commitment.json"
"""File of a batch's model folder: the commitment to the training of the new weights, made when they are deployed."""
UNCOMMITTED = "so the proof alone does not put it into service: an audit or --accept-exact-rebuild does"


@dataclass(frozen=True)
class Commitments:
    """Commitments that a plan may rest on.

    Attributes:
        named: those that the operator named, by path.
        kept: those to models that earlier batches made, by path.
    """

    named: Mapping[Path, TrainingCommitment]
    kept: Mapping[Path, TrainingCommitment]

    @classmethod
    def read(cls, named: Sequence[str], output: Path) -> "Commitments":
        """Read the named files, and those in the folders of earlier batches.

        Raises:
            InputError: a file is not a commitment.
        """
        kept = sorted(output.glob(f"B-*/model-*/{COMMITMENT}"))
        loaded = [{path.resolve(): TrainingCommitment.load(path) for path in map(Path, paths)} for paths in (named, kept)]
        return cls(*loaded)

    def of(self, folder: Path, requests: Sequence[Request]) -> tuple[Path | None, str]:
        """Return the oldest commitment to a model's training that is older than all requests, and its age in words.

        Args:
            folder: the model's folder, with its training logs.
            requests: the requests that are planned.
        """
        root = commitment_root(folder)
        fitting = {path: one for path, one in {**self.kept, **self.named}.items() if one.root == root}
        if not fitting:
            return None, "no commitment to its training was found (--commitments FILE names one)"
        older = {path: one for path, one in fitting.items() if _is_older(one, requests)}
        path, chosen = min((older or fitting).items(), key=lambda entry: entry[1].created)
        day = chosen.created[:10]
        if not older:
            return None, f"its training was committed to on {day}, which is not before the request: the commitment is not used"
        return path, f"its training was committed to on {day}, before the request"

    def require_fitting(self, folders: Collection[Path]) -> None:
        """Check that each named commitment is to one of these models' trainings.

        Raises:
            InputError: a named commitment is to none of them.
        """
        roots = {commitment_root(folder) for folder in folders}
        for path, commitment in self.named.items():
            if commitment.root not in roots:
                raise InputError(
                    f"{path} commits to a training with the root {commitment.root[:16]}, which is that of no model in this plan. "
                    "Name the file that `verify-unlearning commit` wrote for the model in service, or leave it out."
                )


def _is_older(commitment: TrainingCommitment, requests: Sequence[Request]) -> bool:
    """Return whether a commitment is dated before the receipt of every request."""
    if not commitment.is_past(datetime.now(UTC)):
        return False
    return all(facts_of(request).is_after(datetime.fromisoformat(commitment.created)) for request in requests)


def planned_proof(
    methods: Sequence[str],
    folder: Path,
    origin: Path,
    base: str | None,
    records: Collection[str],
    deletion: float | None,
    committed: tuple[Path | None, str],
) -> PlannedProof:
    """Plan the re-execution of a model's exact rebuild.

    Args:
        methods: the candidate methods.
        folder: the model's folder.
        origin: the folder with its training log or shards.
        base: the model before fine-tuning, or None if unknown.
        records: keyed hashes of the records to remove.
        deletion: expected cost of the first method as a share of a retraining, or None.
        committed: as `Commitments.of` returns.

    Returns:
        the proof; without a share where the rebuild cannot be executed again, and the words say why.
    """
    if (reason := obstacle(methods, origin, base)) is not None:
        return PlannedProof(commitment=None, share=None, words=reason)
    method = next(name for name in methods if name in EXECUTABLE)
    path, age = committed if method in FROM_LOG else (None, "its schedule follows from options and seed, without a commitment")
    share = proof_share(method, folder, records, committed=path is not None)
    whole = method in FROM_LOG and path is None
    where = " from the base on" if whole else ""
    words = f"executed again{where}, {share:.1%} of a retraining"
    if whole:
        age += f", {UNCOMMITTED}"
    if method == methods[0] and deletion is not None:
        words += f"; deletion and proof together {deletion + share:.1%} of its tokens{_time(origin, deletion + share)}"
    elif method != methods[0]:
        words = f"if it comes to {method}: {words}"
    return PlannedProof(commitment=None if path is None else str(path), share=share, words=f"{words}; {age}")


def obstacle(methods: Sequence[str], origin: Path, base: str | None) -> str | None:
    """Return why a model's exact rebuild cannot be executed again, or None.

    Args:
        methods: the candidate methods; the last is an exact rebuild.
        origin: the folder with the model's training log or shards.
        base: the model before fine-tuning, or None if unknown.
    """
    if not set(methods) & set(EXECUTABLE):
        return f"{methods[-1]} has no re-execution yet"
    if base is None:
        return "the base model is not known; name it with --base"
    if (origin / CANARIES_NAME).is_file():
        return "it was trained with canaries, which are in no file that could be shown"
    if (origin / LOG_NAME).is_file() and (defense := TrainingLog.read(origin / LOG_NAME).defense) is not None:
        return f"training under {defense} logs no steps"
    return None


def _time(origin: Path, share: float) -> str:
    """Return the expected time in words; empty where the manifest does not say how long a whole training took."""
    about = read_json(origin / MANIFEST)["about"]
    training = about.get("training") or {}
    if about.get("method", "retrain") != "retrain" or not training.get("seconds"):
        return ""
    seconds = float(training["seconds"]) * share
    return ", less than a minute" if seconds < 60 else f", about {seconds / 60:.0f} min"
