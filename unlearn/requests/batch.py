"""A planned batch while it is run: its plan and folder, where it stands by the ledger, and what its methods and audits read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unlearn.requests.batch_folder import audit_folder
from unlearn.requests.batch_state import PLANNABLE, attempt_of, planned_in
from unlearn.requests.ledger.ledger import Check, Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.states import State
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.reexecution import Proofs
from unlearn.requests.request_facts import facts_of
from unlearn.requests.training_sets import TrainingSets, removed_before, training_sets
from verify.auditing.pinned_references import digests_of
from verify.data.identity import RecordKey
from verify.errors import InputError

Notify = Callable[[str], None]
"""Progress callback that receives one line of text."""


class Batch:
    """A batch that is run.

    Attributes:
        ledger: the request ledger.
        folder: folder of the batch.
        plan, digest: its plan, and the digest by which the ledger names it.
        key: the ledger's record key.
        references: the planned references and those that this run adds.
        has_new_references: whether it adds any.
        proofs: the re-executions of its attempts.
        notify: receives lines about the progress.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: Path,
        plan: Plan,
        digest: str,
        key: RecordKey,
        references: Sequence[str],
        notify: Notify,
        near_duplicates: bool = False,
    ) -> None:
        self.ledger, self.folder, self.plan, self.digest, self.notify = ledger, folder, plan, digest, notify
        self.key = key
        requests = [facts_of(ledger.request(name)) for name in plan.requests]
        self.proofs = Proofs(folder, plan, requests, near_duplicates or self._left_near_duplicates(), notify)
        self.has_new_references = bool(references)
        if references and any(model.level_table is not None for model in plan.models):
            raise InputError(
                "this batch is judged by a level table, as its plan and registration say. Leave --references out, or plan the "
                "requests again with --references."
            )
        self.references = tuple(dict.fromkeys((*plan.references, *(str(Path(folder).resolve()) for folder in references))))
        self._sets: dict[str, TrainingSets] = {}

    def state(self) -> State:
        """Return the state that all requests of the batch share.

        Raises:
            InputError: the batch's requests are no longer in the same state; the plan is stale.
        """
        requests = [self.ledger.request(name) for name in self.plan.requests]
        planned = [planned_in(request) for request in requests]
        states = {request.state for request in requests}
        if len(states) > 1 or set(planned) != {self.plan.batch}:
            raise InputError(
                f"the requests of {self.plan.batch} no longer belong together ({', '.join(sorted(states))}): one was withdrawn, "
                f"refused or planned again.{self._plan_again(requests)}"
            )
        return states.pop()

    def _plan_again(self, requests: Sequence[Request]) -> str:
        """Return the command for requests that are open and in no later plan; `plan` includes them only by name."""
        open_ = [entry.id for entry in requests if entry.state in PLANNABLE and planned_in(entry) == self.plan.batch]
        command = f"unlearn request plan --ids {' '.join(open_)} --data FILE ... --models DIR ..."
        return f" Run `{command}` for its open requests." if open_ else ""

    def advance(self, state: State, check: Check = lambda _: None, **details: Any) -> None:
        """Record the next state of all requests of the batch; `check` as in `Ledger.advance_each`."""
        facts = {"batch": self.plan.batch, "plan": self.digest, **details}
        self.ledger.advance_each([(self.plan.requests, state, facts)], check)

    def request(self) -> Request:
        """Return the first of its requests, which all have the same steps."""
        return self.ledger.request(self.plan.requests[0])

    def attempt(self, model: PlannedModel) -> int:
        """Return the index of a model's current candidate method."""
        return attempt_of(self.request(), self.plan, model)

    def records(self, model: PlannedModel) -> TrainingSets:
        """Return a model's forget and retain records, which are read once."""
        if model.weights not in self._sets:
            gone = removed_before(self.ledger, self.plan)
            self._sets[model.weights] = training_sets(self.plan, model, gone, self.key)
        return self._sets[model.weights]

    def audited(self) -> str:
        """Identify the references of an audit by its folder's name, so that the ledger stores no paths."""
        return audit_folder(self.folder, self.plan, self.plan.models[0], 0, self.references).name

    def used(self) -> dict[str, Any]:
        """Return what the ledger records of an audit's references: their number, folders and weights, each by a digest."""
        weights = sorted(digests_of(self.references, self.plan.settings.dtype))
        return {"references": len(self.references), "audited": self.audited(), "reference_weights": weights}

    def audit_folder(self, model: PlannedModel) -> Path:
        """Return the folder of the audit of a model's current attempt."""
        return audit_folder(self.folder, self.plan, model, self.attempt(model), self.references)

    def _left_near_duplicates(self) -> bool:
        """Return whether near-duplicates were left in the data by decision when the requests were planned."""
        matched = (self.ledger.request(name).latest("matched") or {} for name in self.plan.requests)
        return any(entry.get("near_duplicates_left") for entry in matched)
