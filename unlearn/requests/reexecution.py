"""Re-execution of attempts: execute an exact rebuild again, bit for bit, and keep the proof beside the attempt.

It runs the code of `verify-unlearning reexecute`. A killed re-execution resumes from its working folder. A proof is made once for
the same weights; only one whose outcome was NOT_TESTABLE can be made again, as the reason may be gone.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from unlearn.requests.attempt import exact_by
from unlearn.requests.batch_folder import attempt_folder, model_folder
from unlearn.requests.candidates import EXECUTABLE, FROM_LOG
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from unlearn.training.log import LOG_NAME
from verify.errors import InputError
from verify.io.files import MANIFEST, file_digest, read_json
from verify.provenance.shard_plan import SHARDS
from verify.reexecution.execution import DONE
from verify.reexecution.reexecute import reexecute
from verify.schema.deletion_record import ReexecutedModel, RequestFacts
from verify.schema.reexecution import Reexecution, ReexecutionWord

EVERY = 15.0
"""Seconds between two lines about the progress."""


@dataclass(frozen=True)
class Proofs:
    """Re-executions of a batch's attempts.

    Attributes:
        folder: the batch's folder.
        plan: its plan.
        requests: what was requested, and when.
        near_duplicates: a person judged the training records that are nearly a record to remove, and they may stay.
        notify: receives lines about progress and outcome.
    """

    folder: Path
    plan: Plan
    requests: Sequence[RequestFacts] = ()
    near_duplicates: bool = False
    notify: Callable[[str], None] = lambda _: None

    def find_or_make(self, model: PlannedModel, attempt: int, sets: Callable[[], TrainingSets]) -> Reexecution | None:
        """Return an attempt's proof, executing its training again unless that is done; None where it cannot be executed.

        Raises:
            InputError: logs, base or records cannot be read.
        """
        if self.obstacle(model, attempt) is not None:
            return None
        kept = self._kept(model, attempt)
        if kept is not None and (kept.word != "REBUILT_WITHOUT" or kept.model == self._weights(model, attempt)):
            return kept
        return self.make(model, attempt, sets())

    def make(self, model: PlannedModel, attempt: int, sets: TrainingSets) -> Reexecution:
        """Execute an attempt's training again and keep the proof, in place of one that could not be tested.

        Raises:
            InputError: logs, base or records cannot be read.
        """
        assert model.proof is not None, "the caller asks for an obstacle first"
        assert model.base is not None, "without a base no proof is planned"
        self.notify(f"{model.name}: {model.proof.words}")
        path = self.path(model, attempt)
        work = path.with_suffix("")
        if work.is_dir() and not (work / DONE).is_file():
            shutil.rmtree(work)  # killed before anything was executed
        path.unlink(missing_ok=True)
        made = attempt_folder(self.folder, self.plan, model, attempt)
        derived = exact_by(made) in FROM_LOG
        try:
            proof = reexecute(
                made,
                model.base,
                data=sets.retain,
                forget_set=sets.forget,
                log=model.origin if derived else None,
                commitment=model.proof.commitment if derived else None,
                requested=self._requested,
                segments="all",  # a sample would be drawn by the operator
                accept_near_duplicates=self.near_duplicates,
                fields=self.plan.columns,
                dtype=self.plan.settings.dtype,
                work_dir=work,
                output=path,
                progress=_Lines(model.name, self.notify),
            )
        except InputError as error:
            raise InputError(
                f"{model.name} cannot be executed again: {error} To do without, plan again: `unlearn request plan --ids "
                f"{self.plan.requests[0]} --no-reexecution ...`."
            ) from None
        shutil.rmtree(work, ignore_errors=True)
        self.notify(f"{model.name}: {proof.phrase}. {proof.claim}")
        return proof

    def path(self, model: PlannedModel, attempt: int) -> Path:
        """Return the path of an attempt's proof."""
        return model_folder(self.folder, self.plan, model) / f"reexecution-{attempt}.json"

    def word(self, model: PlannedModel, attempt: int) -> ReexecutionWord | None:
        """Return the outcome of an attempt's re-execution; None where it was not executed again."""
        kept = self._kept(model, attempt)
        return None if kept is None else kept.word

    def proven(self, model: PlannedModel, attempt: int) -> bool:
        """Return whether its re-execution alone puts an attempt into service."""
        kept = self._kept(model, attempt)
        return kept is not None and kept.model == self._weights(model, attempt) and self._objection(model, attempt) is None

    def missing(self, model: PlannedModel, attempt: int) -> str:
        """Say why no re-execution proves an attempt."""
        kept = self._kept(model, attempt)
        if kept is not None and kept.word == "REBUILT_WITHOUT":
            return f"its re-execution is {kept.phrase}, but {self._objection(model, attempt)}"
        if kept is not None:
            return f"its re-execution is {kept.word}: {kept.claim}"
        return f"it was not executed again: {self.obstacle(model, attempt)}"

    def facts(self, model: PlannedModel, attempt: int) -> dict[str, Any]:
        """Return what the ledger records of an attempt's re-execution: outcome and digest of the proof; nothing without one."""
        kept, path = self._kept(model, attempt), self.path(model, attempt)
        if kept is None:
            return {}
        facts = {"word": kept.word, "phrase": kept.phrase, "proof": file_digest(path)}
        return {"reexecution": {**facts, "file": path.relative_to(self.folder).as_posix()}}

    def obstacle(self, model: PlannedModel, attempt: int) -> str | None:
        """Return why an attempt's training cannot be executed again, or None."""
        if model.proof is None:
            return "the plan does without"
        if model.proof.share is None:
            return model.proof.words
        made = attempt_folder(self.folder, self.plan, model, attempt)
        method = exact_by(made)
        if method is None:
            return f"{model.ladder[attempt]} is an approximate method"
        if method not in EXECUTABLE or not any((made / name).is_file() for name in (LOG_NAME, SHARDS)):
            return f"{method} left no log that could be executed again"
        return None

    @property
    def _requested(self) -> str | None:
        """When the first of the requests was recorded; the plan names a commitment only if it is older than all of them."""
        return min((one.events[0].at for one in self.requests if one.events), key=datetime.fromisoformat, default=None)

    def _objection(self, model: PlannedModel, attempt: int) -> str | None:
        """Return why a re-execution alone does not put an attempt into service, or None."""
        return ReexecutedModel.of(self.path(model, attempt)).objection(self.requests)

    def _weights(self, model: PlannedModel, attempt: int) -> str:
        return str(read_json(attempt_folder(self.folder, self.plan, model, attempt) / MANIFEST)["about"]["weights"])

    def _kept(self, model: PlannedModel, attempt: int) -> Reexecution | None:
        path = self.path(model, attempt)
        return Reexecution.load(path) if path.exists() else None


class _Lines:
    """Progress in lines: how far it is, and the time left."""

    def __init__(self, name: str, notify: Callable[[str], None]) -> None:
        self.name, self.notify = name, notify
        self.began = self.last = time.monotonic()

    def __call__(self, _: str, done: float) -> None:
        now = time.monotonic()
        if done > 0 and now - self.last >= EVERY:
            self.last = now
            self.notify(f"{self.name}: {done:.0%} executed again, about {(now - self.began) * (1 - done) / done:.0f} s left")
