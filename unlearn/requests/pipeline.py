"""From plan to deployment: registration, method, audit, and the next method where the audit is not satisfied.

Every step first looks whether it is done: the ledger says where the batch is, manifests say what is made. So the same command goes
on after a kill at any moment, and nothing whole is made twice. The old weights are not touched: they stay in service until the
operator has put the new ones in their place and said so.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.requests.ledger import Ledger, Request
from unlearn.requests.planning import PLANNABLE, replaced_weights
from unlearn.requests.plans import Plan, PlannedModel
from unlearn.requests.rungs import audit_rung, exact_by, make_rung, registered, require_fitting_references
from unlearn.requests.statement import draft_provenance
from unlearn.requests.states import State
from unlearn.requests.training_sets import TrainingSets, removed_before, require_clean, training_sets
from unlearn.requests.workplace import CACHE, alone_in, audit_folder, rung_folder
from verify.deletion_record import CERTIFYING, EXACT_REBUILD, UNDECIDED
from verify.errors import InputError, RunError
from verify.evidence import Evidence
from verify.files import MANIFEST, file_digest, read_json
from verify.identity import RecordKey

Tell = Callable[[str], None]
"""Told in one line what is being done."""

OBJECTING = ("utility", "negative control")
"""Gates that fail for another reason than that the question was too hard: a broken model, references that do not fit."""

RUNNING: tuple[State, ...] = ("planned", "unlearning", "verifying", "failed")
"""States from which `run` goes on by itself."""


@dataclass(frozen=True)
class Finding:
    """What came out of a model's audit.

    Attributes:
        verdict: one of the four words.
        why: in words.
        needed: what would decide, or None.
    """

    verdict: str
    why: str
    needed: str | None


def batch_of(ledger: Ledger, request: str) -> tuple[str, str]:
    """The batch a request was last planned in, and the digest of its plan.

    Raises:
        InputError: it was never planned.
    """
    planned = ledger.request(request).latest("planned")
    if planned is None:
        raise InputError(f"{request} has not been planned. Run `unlearn request plan` first.")
    return str(planned["batch"]), str(planned["plan"])


def run_batch(
    ledger: Ledger,
    output: Path,
    request: str,
    key: RecordKey,
    references: Sequence[str] = (),
    tell: Tell = lambda _: None,
    accept_exact: bool = False,
) -> Plan:
    """Take the batch of a request as far as it goes: to deployed, inconclusive, or failed for good.

    Args:
        ledger: the requests.
        output: where batches live.
        request: any request of the batch.
        key: the ledger's.
        references: other references than the planned ones, for an audit that was inconclusive.
        tell: told what is being done.
        accept_exact: go by the exact rebuild where its audit leaves the question open: the operator's decision, which ledger,
            certificate and report name as what it is.

    Raises:
        InputError: the plan does not hold any more, files are missing, or another process works on the batch; or what shall be
            accepted is no exact rebuild, or its audit did not leave it open.
        RunError: a method diverged, or the disk is full; the same command goes on.
    """
    batch, digest = batch_of(ledger, request)
    folder = output / batch
    plan = Plan.load(folder, digest)
    with alone_in(folder):
        run = _Run(ledger, folder, plan, digest, key, references, tell)
        run.go()
        if accept_exact:
            run.accept()
    return plan


class _Run:
    """One call of `run` on one batch."""

    def __init__(
        self, ledger: Ledger, folder: Path, plan: Plan, digest: str, key: RecordKey, references: Sequence[str], tell: Tell
    ) -> None:
        self.ledger, self.folder, self.plan, self.digest, self.tell = ledger, folder, plan, digest, tell
        self.key = key
        self.asked_again = bool(references)
        self.references = tuple(str(Path(place).resolve()) for place in references) or plan.references
        self._sets: dict[str, TrainingSets] = {}

    def go(self) -> None:
        """Step after step, until the batch rests."""
        steps: Mapping[str, Callable[[], None]] = {
            "planned": self.begin,
            "unlearning": self.unlearn,
            "verifying": self.verify,
            "failed": self.climb,
        }
        if self.state() == "inconclusive" and self.asked_again:
            require_clean(self.references, self.plan.records)
            self._to("verifying", references=len(self.references))
        while (state := self.state()) in steps and not self._failed_for_good():
            steps[state]()

    def accept(self) -> None:
        """Go by the exact rebuild of every model whose audit left it open.

        Raises:
            InputError: a model is no exact rebuild, or there is another objection than an audit that could not decide.
        """
        if (state := self.state()) != "inconclusive":
            self.tell(f"--accept-exact-rebuild has nothing to accept: the batch is {state}")
            return
        self._require_same_references("inconclusive")
        for model in self.plan.models:
            if (objection := self._objection(model)) is not None:
                raise InputError(f"{model.name} cannot be accepted as an exact rebuild: {objection}.")
        self._to("verifying", references=len(self.references), accepted=EXACT_REBUILD, audited=self._audited())
        self.go()

    def _objection(self, model: PlannedModel) -> str | None:
        """Why a model may not be gone by where its audit does not certify it; None for nothing."""
        rung = self._rung(model)
        evidence = audit_rung(self.folder, self.plan, model, rung, self._records(model), self.references)
        if evidence.verdict == CERTIFYING:
            return None
        if not exact_by(rung_folder(self.folder, self.plan, model, rung)):
            return f"it was made by {model.ladder[rung]}, which holds what is left of the records"
        if evidence.verdict not in UNDECIDED:
            return f"its audit says {evidence.verdict}; look for records that are still in the training data under other names"
        if evidence.accused:
            return f"its audit names {len(evidence.accused)} of its records as beyond the margin"
        # Planning again, with fewer references, does not unsay what an audit of the same weights has said.
        for step in self._request().steps:
            found = step.details["models"] if step.state == "failed" and step.details["final"] else ()
            if any(entry["before"] == model.weights and entry["verdict"] == "NOT_FORGOTTEN" for entry in found):
                return "an audit of an earlier plan said NOT_FORGOTTEN of what it was replaced by"
        failed = next((gate for gate in evidence.gates if gate.name in OBJECTING and gate.passed is False), None)
        return None if failed is None else failed.reason.rstrip(".")

    def _require_same_references(self, state: State) -> None:
        """Raise InputError where the audit that was left open had other references: a smaller one must not take its place."""
        if (self._request().latest(state) or {}).get("audited") != self._audited():
            raise InputError(
                "the audit that left it open had other references. Give the same --references, or run without "
                "--accept-exact-rebuild first."
            )

    def _audited(self) -> str:
        """Which references an audit has: the name of its folder tells, and no path is kept in the ledger."""
        return audit_folder(self.folder, self.plan, self.plan.models[0], 0, self.references).name

    def begin(self) -> None:
        """Register every audit; only then may anything be unlearned."""
        require_clean(self.references, self.plan.records)
        digests, replaced = {}, replaced_weights(self.ledger)
        for model in self.plan.models:
            if model.weights in replaced:
                raise InputError(
                    f"{model.name} was replaced since it was planned. Run `unlearn request plan` again, on the new weights."
                )
            if not Path(model.folder).is_dir():
                raise InputError(f"{model.folder} is not there any more. Run `unlearn request plan` again.")
            require_fitting_references(self.plan, model, self._records(model), self.references, self.key)
            digests[model.weights] = registered(self.folder, self.plan, model, self._records(model))
        self.tell("registered what will be audited, and how")
        self._to("unlearning", registrations=digests, rungs={model.weights: self._rung(model) for model in self.plan.models})

    def unlearn(self) -> None:
        """Run every model's method; one that diverges is left for the next."""
        for model in self.plan.models:
            rung = self._rung(model)
            self.tell(f"{model.name}: {model.ladder[rung]}")
            try:
                make_rung(self.folder, self.plan, model, rung, self._records(model))
            except RunError as error:
                # A full disk has the system's error as its cause, and is mended by the same command; a divergence is not.
                if error.__cause__ is not None or rung + 1 >= len(model.ladder):
                    raise
                self._to("failed", models=[self._tried(model, Finding("NOT_TESTABLE", str(error), None))], final=False)
                return
        self._to("verifying", references=len(self.references))

    def verify(self) -> None:
        """Audit every result, and decide."""
        accepted = (self._request().latest("verifying") or {}).get("accepted") == EXACT_REBUILD
        if accepted:  # by a call that was cut off before it deployed
            self._require_same_references("verifying")
        found = {model: self._audit(model) for model in self.plan.models}
        left = [model for model, finding in found.items() if finding.verdict != CERTIFYING]
        left = [model for model in left if not accepted or self._objection(model) is not None]
        climbing = [model for model in left if self._has_next(model)]
        if not left:
            self._to("deployed", models=[self._deployed(model) for model in self.plan.models])
            shutil.rmtree(self.folder / CACHE, ignore_errors=True)
        elif climbing:
            self._to("failed", models=[self._tried(model, found[model]) for model in climbing], final=False)
        elif any(found[model].verdict == "NOT_FORGOTTEN" for model in left):
            self._to("failed", models=[self._tried(model, found[model]) for model in left], final=True)
        else:
            needed = next((found[model].needed for model in left if found[model].needed), found[left[0]].why)
            tried = [self._tried(model, found[model]) for model in left]
            self._to("inconclusive", models=tried, needed=needed, audited=self._audited())

    def climb(self) -> None:
        """Remove what failed, as it may hold the records, and plan the next method."""
        failed = self._request().latest("failed")
        assert failed is not None, "the state says so"
        for entry in failed["models"]:
            model = next(model for model in self.plan.models if model.weights == entry["before"])
            shutil.rmtree(rung_folder(self.folder, self.plan, model, int(entry["rung"])), ignore_errors=True)
            self.tell(f"{model.name}: {entry['method']} was {entry['verdict']}; next is {model.ladder[int(entry['rung']) + 1]}")
        again = {entry["before"] for entry in failed["models"]}
        models = [
            {"name": model.name, "weights": model.weights, "method": model.ladder[self._rung(model)]}
            for model in self.plan.models
            if model.weights in again
        ]
        self._to("planned", answer_by=self.plan.answer_by.isoformat(), models=models)

    def state(self) -> State:
        """Where the whole batch is.

        Raises:
            InputError: its requests have parted, or a model was replaced since: the plan does not hold any more.
        """
        requests = [self.ledger.request(name) for name in self.plan.requests]
        planned = [_planned_in(request) for request in requests]
        states = {request.state for request in requests}
        if len(states) > 1 or set(planned) != {self.plan.batch}:
            raise InputError(
                f"the requests of {self.plan.batch} do not stand together any more ({', '.join(sorted(states))}): one was "
                f"withdrawn, refused or planned anew.{self._plan_again(requests)}"
            )
        return states.pop()

    def _plan_again(self, requests: Sequence[Request]) -> str:
        """What to type for those that are open and in no later plan; `plan` takes them up only when they are named."""
        open_ = [entry.id for entry in requests if entry.state in PLANNABLE and _planned_in(entry) == self.plan.batch]
        command = f"unlearn request plan --ids {' '.join(open_)} --data FILE ... --models DIR ..."
        return f" Run `{command}` for what is open of it." if open_ else ""

    def _to(self, state: State, **details: Any) -> None:
        self.ledger.advance_all(self.plan.requests, state, batch=self.plan.batch, plan=self.digest, **details)

    def _request(self) -> Request:
        return self.ledger.request(self.plan.requests[0])

    def _rung(self, model: PlannedModel) -> int:
        return rung_of(self._request(), self.plan, model)

    def _failed_for_good(self) -> bool:
        request = self._request()
        return request.state == "failed" and bool((request.latest("failed") or {}).get("final"))

    def _records(self, model: PlannedModel) -> TrainingSets:
        if model.weights not in self._sets:
            gone = removed_before(self.ledger, self.plan)
            self._sets[model.weights] = training_sets(self.plan, model, gone, self.key)
        return self._sets[model.weights]

    def _audit(self, model: PlannedModel) -> Finding:
        self.tell(f"{model.name}: audit with {len(self.references)} references")
        rung = self._rung(model)
        evidence = audit_rung(self.folder, self.plan, model, rung, self._records(model), self.references)
        return Finding(evidence.verdict, evidence.explanation[0] if evidence.explanation else "", evidence.next_step)

    def _has_next(self, model: PlannedModel) -> bool:
        """Whether another method is left; a retraining after one that `auto` ended with would be the same again."""
        rung = self._rung(model)
        if rung + 1 >= len(model.ladder):
            return False
        return exact_by(rung_folder(self.folder, self.plan, model, rung)) != model.ladder[rung + 1]

    def _tried(self, model: PlannedModel, finding: Finding) -> dict[str, Any]:
        rung = self._rung(model)
        return {"before": model.weights, "rung": rung, "method": model.ladder[rung], "verdict": finding.verdict, "why": finding.why}

    def _deployed(self, model: PlannedModel) -> dict[str, Any]:
        rung = self._rung(model)
        made = rung_folder(self.folder, self.plan, model, rung)
        audited = audit_folder(self.folder, self.plan, model, rung, self.references)
        evidence = Evidence.load(audited / "evidence.json")
        draft_provenance(self.folder, self.plan, model, made)
        return {
            "name": model.name,
            "before": model.weights,
            "after": read_json(made / MANIFEST)["about"]["weights"],
            "method": model.ladder[rung],
            "verdict": evidence.verdict,
            "basis": "audit" if evidence.verdict == CERTIFYING else EXACT_REBUILD,
            "folder": made.relative_to(self.folder).as_posix(),
            "audit": audited.relative_to(self.folder).as_posix(),
            "evidence": file_digest(audited / "evidence.json"),
        }


def _planned_in(request: Request) -> str | None:
    """The batch that a request was last planned in."""
    return (request.latest("planned") or {}).get("batch")


def rung_of(request: Request, plan: Plan, model: PlannedModel) -> int:
    """Which method of a model's ladder is on: one further for every time that the batch failed for it."""
    failures = [step.details for step in request.steps if step.state == "failed" and step.details.get("batch") == plan.batch]
    return sum(model.weights == entry["before"] for details in failures if not details["final"] for entry in details["models"])
