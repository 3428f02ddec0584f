"""Real audits on a pretrained language model: an adapter learns invented people, some of whom are to be forgotten.

Honest retrainings, and retrainings that kept a fifth of the forget records, drawn at random; all judged by the present rule of the
verdict against the same references. Resumable: models and audits whose manifest verifies are not made again.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.calibration.real import TRUTHS, read_others, write_kept
from benchmarks.calibration.rules import Readings
from benchmarks.channel_methods.world import Place, Sizes, prepare, train, train_on
from unlearn.experiments.llm_demo import ATTACKS, CHANNELS
from verify.io.files import is_complete
from verify.io.jobs import Job, run_jobs
from verify.schema.evidence import Evidence
from verify.schema.settings import Settings

SEED = 21
SIZES = Sizes(trained=14, forgotten=6, held_out=16, wordings=1)
"""People of six records. The forget set is a large share of the training, since it is its size that the tests depend on."""
HONEST, KEPT, _ = TRUTHS
NAMES = {HONEST: "honest", KEPT: "kept"}
"""What was done -> how its models' names begin."""
FIRST_SEED = {HONEST: 100, KEPT: 200}


@dataclass(frozen=True)
class PretrainedAudit:
    """One audit of a model with known ground truth.

    Attributes:
        truth: what was done.
        number: of the model.
        evidence: the audit.
        others: what other rules say of the same losses.
    """

    truth: str
    number: int
    evidence: Evidence
    others: Readings


def audit_pretrained(
    place: Place, per_truth: int, progress: Callable[[str, float], None], *, workers: int, seconds: float = float("inf")
) -> list[PretrainedAudit]:
    """Train missing models and audit them, both truths in turn; return the audits that are there when the time is up.

    Args:
        place: the world, of a pretrained model.
        per_truth: number of models of each kind.
        progress: progress callback (label, fraction done).
        workers: number of processes.
        seconds: after these nothing is begun.
    """
    deadline = time.time() + seconds
    prepare(place)
    shared = ["original", *place.references]
    jobs = [Job(_training(name), 1, _train_shared, {"place": place, "name": name, "deadline": deadline}) for name in shared]
    ready = frozenset(job.label for job in jobs)
    first: frozenset[str] = frozenset()
    for number in range(per_truth):
        for truth in NAMES:
            name = _name(truth, number)
            about = {"place": place, "truth": truth, "number": number, "deadline": deadline}
            jobs.append(Job(_training(name), 1, _train, about))
            # The first audit fills the cache that all of them read.
            jobs.append(Job(f"auditing {name}", 0.3, _audit, {**about, "name": name}, ready | {_training(name)} | first))
            first = first or frozenset({jobs[-1].label})
    total, done = sum(job.weight for job in jobs), 0.0
    for job, _ in run_jobs(jobs, workers):
        done += job.weight
        progress(job.label, done / total)
    return list(_outcomes(place, per_truth))


def _name(truth: str, number: int) -> str:
    return f"{NAMES[truth]}{number}"


def _training(name: str) -> str:
    return f"training {name}"


def _train_shared(place: Place, name: str, deadline: float) -> None:
    if time.time() < deadline:
        train(place, name)


def _train(place: Place, truth: str, number: int, deadline: float) -> None:
    if time.time() > deadline:
        return
    name = _name(truth, number)
    if truth == KEPT:
        write_kept(place.folder, number)
    train_on(place, name, name if truth == KEPT else "retain", FIRST_SEED[truth] + number)


def _audit(place: Place, name: str, truth: str, number: int, deadline: float) -> None:  # noqa: ARG001 - the arguments of `_train`
    from verify import audit

    output = _audited(place, name)
    shared = [str(place.path(one)) for one in ("original", *place.references)]
    if is_complete(output, "audit") or time.time() > deadline or not all(map(is_complete, (place.path(name), *map(Path, shared)))):
        return
    audit(
        str(place.path(name)),
        shared[0],
        references=shared[1:],
        base=str(place.path("base")),
        forget_set=str(place.data("forget")),
        retain_set=str(place.data("retain")),
        holdout_set=str(place.data("holdout-audit")),
        rewordings=place.rewordings(),
        output_dir=output,
        settings=Settings(channels=CHANNELS, attacks=ATTACKS),
        cache_dir=place.folder / "cache",
    )


def _audited(place: Place, name: str) -> Path:
    return place.folder / "audits" / name


def _outcomes(place: Place, per_truth: int) -> Iterator[PretrainedAudit]:
    """Read the audits that are complete."""
    for truth in NAMES:
        for number in range(per_truth):
            folder = _audited(place, _name(truth, number))
            if is_complete(folder, "audit"):
                yield PretrainedAudit(truth, number, Evidence.load(folder / "evidence.json"), read_others(folder))
