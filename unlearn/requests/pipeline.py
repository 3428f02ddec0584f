"""Run a planned batch to deployment: register, unlearn, prove or audit, and try the next method if the result is refused.

An exact rebuild is executed again (`unlearn.requests.reexecution`): equal bit for bit, on a training that was committed to before,
it goes into service, and an audit is an addition, made where there are references. Everything else is judged by its audit.

Every step first checks whether it is done: the ledger records the state of the batch, and manifests mark finished results. So the
same command continues after a kill at any moment, and nothing finished is made twice. The old weights are not touched: they stay in
service until the operator has replaced them and recorded that.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.requests.attempt import (
    audit_attempt,
    controls_to_use,
    exact_by,
    register_audit,
    require_fitting_references,
    run_attempt,
)
from unlearn.requests.attestation import draft_provenance, facts_of
from unlearn.requests.audit_numbers import opened_by, require_planned_levels, was_scored
from unlearn.requests.batch_folder import CACHE, attempt_folder, audit_folder, model_folder
from unlearn.requests.batch_state import PLANNABLE, attempt_of, batch_of, planned_in, require_not_replaced
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.states import State
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.proofs import COMMITMENT
from unlearn.requests.reexecution import Proofs
from unlearn.requests.training_sets import TrainingSets, removed_before, require_clean, training_sets
from verify.auditing.pinned_references import digests_of
from verify.certificate.opened_audits import AUDITS, NOT_MADE, not_made, opening
from verify.data.identity import RecordKey
from verify.errors import InputError, RunError
from verify.io.files import MANIFEST, alone_in, file_digest, read_json
from verify.provenance.commitment import TrainingCommitment, commitment_root
from verify.schema.deletion_record import CERTIFYING, EXACT_REBUILD, REEXECUTED, UNDECIDED
from verify.schema.evidence import Evidence

Notify = Callable[[str], None]
"""Progress callback that receives one line of text."""

OBJECTING = ("utility", "negative control", "all of alpha")
"""Gates whose failure shows a defect (a broken model, unfit references, an accusation that only a share of alpha forgoes) and not
merely too little evidence."""

RUNNING: tuple[State, ...] = ("planned", "unlearning", "verifying", "failed")
"""States from which `run` can continue."""


@dataclass(frozen=True)
class Finding:
    """What was found out about a model's new weights.

    Attributes:
        verdict: one of the four verdict words of an audit; without an audit, the outcome of the re-execution.
        why: first sentence of the explanation.
        needed: what would settle the verdict, or None.
        proven: whether its re-execution alone puts it into service.
    """

    verdict: str
    why: str
    needed: str | None
    proven: bool = False

    @property
    def refused(self) -> bool:
        """Whether it must not go into service: its audit found records, or its re-execution another result."""
        return self.verdict in ("NOT_FORGOTTEN", "NOT_REBUILT")

    @property
    def deployable(self) -> bool:
        """Whether it may go into service without a decision of the operator's."""
        return not self.refused and (self.proven or self.verdict == CERTIFYING)


def run_batch(
    ledger: Ledger,
    output: Path,
    request: str,
    key: RecordKey,
    references: Sequence[str] = (),
    notify: Notify = lambda _: None,
    accept_exact: bool = False,
    near_duplicates: bool = False,
) -> Plan:
    """Run the batch of a request until it is deployed, inconclusive or failed for good.

    Args:
        ledger: the request ledger.
        output: folder of the batches.
        request: id of any request of the batch.
        key: the ledger's record key.
        references: references to add to the planned ones, for an audit that was inconclusive.
        notify: progress callback.
        accept_exact: accept an exact rebuild that could not be executed again and whose audit is inconclusive. Recorded as the
            operator's decision in the ledger, certificate and report.
        near_duplicates: a person judged the training records that are nearly a record to remove, and they may stay.

    Raises:
        InputError: the plan is stale, files are missing, another process works on the batch, or `accept_exact` was given for a
            model that is not an exact rebuild or whose audit has another objection.
        RunError: the last method diverged, or the disk is full; the same command continues.
    """
    batch, digest = batch_of(ledger, request)
    folder = output / batch
    plan = Plan.load(folder, digest)
    with alone_in(folder):
        run = _Run(ledger, folder, plan, digest, key, references, notify, near_duplicates)
        run.go()
        if accept_exact:
            run.accept()
    return plan


class _Run:
    """One run of one batch."""

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

    def go(self) -> None:
        """Take steps until the batch is deployed, inconclusive or failed for good."""
        steps: Mapping[str, Callable[[], None]] = {
            "planned": self.begin,
            "unlearning": self.unlearn,
            "verifying": self.verify,
            "failed": self.next_method,
        }
        if self.state() == "inconclusive" and (self.has_new_references or self._testable_now()):
            self._require_fitting_references()
            self._to("verifying", **self._used(), **self._opening())
        while (state := self.state()) in steps and not self._failed_for_good():
            steps[state]()

    def accept(self) -> None:
        """Accept the exact rebuild of every model that could not be executed again and whose audit is inconclusive.

        Raises:
            InputError: a model is not an exact rebuild, or its audit has an objection beyond being inconclusive.
        """
        if (state := self.state()) != "inconclusive":
            self.notify(f"--accept-exact-rebuild has nothing to accept: the batch is {state}")
            return
        self._require_same_references("inconclusive")
        for model in self.plan.models:
            attempt = self._attempt(model)
            if self.proofs.proven(model, attempt):
                continue
            if (objection := self._objection(model)) is not None:
                raise InputError(f"{model.name} cannot be accepted as an exact rebuild: {objection}.")
            self.notify(f"{model.name}: accepted on the operator's word; {self.proofs.missing(model, attempt)}")
        self._to("verifying", accepted=EXACT_REBUILD, **self._used())
        self.go()

    def _objection(self, model: PlannedModel) -> str | None:
        """Return why a model must not be deployed without a certifying audit; None if nothing speaks against it."""
        attempt = self._attempt(model)
        evidence = self._evidence(model)
        if evidence.verdict == CERTIFYING:
            return None
        if not exact_by(attempt_folder(self.folder, self.plan, model, attempt)):
            return f"it was made by {model.ladder[attempt]}, an approximate method that started from weights trained on the records"
        if evidence.verdict not in UNDECIDED:
            return f"its audit says {evidence.verdict}; look for records that are still in the training data under other names"
        if evidence.accused:
            return f"its audit lists {len(evidence.accused)} of its records as beyond the margin"
        # A new plan with fewer references must not hide what an audit of the same old weights has found.
        for step in self._request().steps:
            found = step.details["models"] if step.state == "failed" and step.details["final"] else ()
            if any(entry["before"] == model.weights and entry["verdict"] == "NOT_FORGOTTEN" for entry in found):
                return "an audit under an earlier plan said NOT_FORGOTTEN of a model that replaced the same weights"
            if any(entry["before"] == model.weights and entry["verdict"] == "NOT_REBUILT" for entry in found):
                return "a re-execution under an earlier plan said NOT_REBUILT of a model that replaced the same weights"
        failed = next((gate for gate in evidence.gates if gate.name in OBJECTING and gate.passed is False), None)
        return None if failed is None else failed.reason.rstrip(".")

    def _require_same_references(self, state: State) -> None:
        """Check that the inconclusive audit used these references, so that a weaker audit cannot take its place."""
        if (self._request().latest(state) or {}).get("audited") != self._audited():
            raise InputError(
                "the inconclusive audit used other references. Give the same --references, or first run without "
                "--accept-exact-rebuild."
            )

    def _require_begun_references(self) -> None:
        """Check that an audit goes on with the references with which it was begun, which are those that the ledger counts."""
        begun, used = self._request().latest("verifying") or {}, self._used()
        if any(begun.get(name, value) != value for name, value in used.items()):  # earlier versions noted only their number
            raise InputError(
                f"this audit was begun with {begun['references']} references, the planned ones included, and would go on with "
                f"others ({len(self.references)}), or with other weights in their folders. Give the same --references as before; "
                "others can be added once it is inconclusive."
            )

    def _require_fitting_references(self) -> None:
        """Check references that were added to the planned ones before the ledger counts them."""
        require_clean(self.references, self.plan.records)
        for model in self.plan.models:
            require_fitting_references(self.plan, model, self._records(model), self.references, self.key)

    def _audited(self) -> str:
        """Identify the references of an audit by its folder's name, so that the ledger stores no paths."""
        return audit_folder(self.folder, self.plan, self.plan.models[0], 0, self.references).name

    def _used(self) -> dict[str, Any]:
        """Return what the ledger records of an audit's references: their number, folders and weights, each by a digest."""
        weights = sorted(digests_of(self.references, self.plan.settings.dtype))
        return {"references": len(self.references), "audited": self._audited(), "reference_weights": weights}

    def begin(self) -> None:
        """Register every audit, which must precede any unlearning."""
        require_clean(self.references, self.plan.records)
        digests = {}
        for model in self.plan.models:
            require_not_replaced(self.ledger, model)
            if not Path(model.folder).is_dir():
                raise InputError(f"{model.folder} no longer exists. Restore it, or run `unlearn request plan` again.")
            require_fitting_references(self.plan, model, self._records(model), self.references, self.key)
            digests[model.weights] = register_audit(self.folder, self.plan, model, self._records(model))
            controls = controls_to_use(self.folder, self.plan, model, self._attempt(model), self.references)
            require_planned_levels(self.ledger, controls, self.plan.settings)
        self.notify("registered the records, tests and thresholds of the audit")
        self._to("unlearning", registrations=digests, rungs={model.weights: self._attempt(model) for model in self.plan.models})

    def unlearn(self) -> None:
        """Run every model's current method; if one diverges, its model gets the next method."""
        if self.has_new_references:
            self._require_fitting_references()
        for model in self.plan.models:
            attempt = self._attempt(model)
            self.notify(f"{model.name}: {model.ladder[attempt]}")
            try:
                run_attempt(self.folder, self.plan, model, attempt, self._records(model))
            except RunError as error:
                # A full disk has the system's error as its cause, and the same command can succeed later; a divergence has none.
                if error.__cause__ is not None or attempt + 1 >= len(model.ladder):
                    raise
                self._to("failed", models=[self._tried(model, Finding("NOT_TESTABLE", str(error), None))], final=False)
                return
        self._to("verifying", **self._used(), **self._opening())

    def verify(self) -> None:
        """Execute every result again or audit it, and deploy, try the next method or stop."""
        accepted = (self._request().latest("verifying") or {}).get("accepted") == EXACT_REBUILD
        if accepted:  # by an earlier call that was killed before it deployed
            self._require_same_references("verifying")
        self._require_begun_references()
        found = {model: self._judged(model) for model in self.plan.models}
        left = [model for model, finding in found.items() if not finding.deployable]
        left = [model for model in left if found[model].refused or not accepted or self._objection(model) is not None]
        retrying, ended = [model for model in left if self._has_next(model)], self._not_made()
        if not left:
            self._to("deployed", models=[self._deployed(model) for model in self.plan.models], **ended)
            shutil.rmtree(self.folder / CACHE, ignore_errors=True)
        elif retrying:
            self._to("failed", models=[self._tried(model, found[model]) for model in retrying], final=False, **ended)
        elif any(found[model].refused for model in left):
            self._to("failed", models=[self._tried(model, found[model]) for model in left], final=True, **ended)
        else:
            needed = next((found[model].needed for model in left if found[model].needed), found[left[0]].why)
            tried = [self._tried(model, found[model]) for model in left]
            self._to("inconclusive", models=tried, needed=needed, audited=self._audited(), **ended)

    def _opening(self) -> dict[str, Any]:
        """Return the audits that begin with the next event, so that the ledger numbers them before anybody sees their results."""
        found, settings = [], self.plan.settings
        for model in self.plan.models:
            controls = controls_to_use(self.folder, self.plan, model, self._attempt(model), self.references)
            if controls is not None:
                found.append(opening(model.weights, controls, settings.alpha, settings.expected_audits))
        return {AUDITS: found} if found else {}

    def _not_made(self) -> dict[str, Any]:
        """Return which of the audits that began with this step were not made, because a re-execution decided in their place."""
        begun = {entry["before"] for entry in (self._request().latest("verifying") or {}).get(AUDITS, ())}
        models = [model for model in self.plan.models if model.weights in begun and not was_scored(self._audit_folder(model))]
        return {NOT_MADE: [not_made(self.plan.batch, model.weights) for model in models]} if begun else {}

    def _audit_folder(self, model: PlannedModel) -> Path:
        return audit_folder(self.folder, self.plan, model, self._attempt(model), self.references)

    def next_method(self) -> None:
        """Remove the failed weights, as they may still hold the records, and plan the next method."""
        failed = self._request().latest("failed")
        assert failed is not None, "the state says so"
        for entry in failed["models"]:
            model = next(model for model in self.plan.models if model.weights == entry["before"])
            shutil.rmtree(attempt_folder(self.folder, self.plan, model, int(entry["rung"])), ignore_errors=True)
            self.notify(f"{model.name}: {entry['method']} was {entry['verdict']}; next is {model.ladder[int(entry['rung']) + 1]}")
        again = {entry["before"] for entry in failed["models"]}
        models = [
            {"name": model.name, "weights": model.weights, "method": model.ladder[self._attempt(model)]}
            for model in self.plan.models
            if model.weights in again
        ]
        self._to("planned", answer_by=self.plan.answer_by.isoformat(), models=models)

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

    def _to(self, state: State, **details: Any) -> None:
        self.ledger.advance_all(self.plan.requests, state, batch=self.plan.batch, plan=self.digest, **details)

    def _request(self) -> Request:
        return self.ledger.request(self.plan.requests[0])

    def _attempt(self, model: PlannedModel) -> int:
        return attempt_of(self._request(), self.plan, model)

    def _failed_for_good(self) -> bool:
        request = self._request()
        return request.state == "failed" and bool((request.latest("failed") or {}).get("final"))

    def _records(self, model: PlannedModel) -> TrainingSets:
        if model.weights not in self._sets:
            gone = removed_before(self.ledger, self.plan)
            self._sets[model.weights] = training_sets(self.plan, model, gone, self.key)
        return self._sets[model.weights]

    def _judged(self, model: PlannedModel) -> Finding:
        """Execute a model's training again where that is possible, and audit it where that was not, or there are references."""
        attempt = self._attempt(model)
        proof = self.proofs.find_or_make(model, attempt, lambda: self._records(model))
        if proof is not None and proof.word == "NOT_REBUILT":
            return Finding(proof.word, proof.claim, None)
        proven = self.proofs.proven(model, attempt)
        if proof is not None and proven and not self.references:
            return Finding(proof.word, proof.claim, None, proven=True)
        audited = self._audit(model)
        if proven:
            return replace(audited, proven=True)
        return audited if proof is None else replace(audited, needed=self.proofs.missing(model, attempt))

    def _testable_now(self) -> bool:
        """Execute again what could not be tested before; whether any of it can be tested now."""
        untested = [model for model in self.plan.models if self.proofs.word(model, self._attempt(model)) == "NOT_TESTABLE"]
        words = [self.proofs.make(model, self._attempt(model), self._records(model)).word for model in untested]
        return any(word != "NOT_TESTABLE" for word in words)

    def _left_near_duplicates(self) -> bool:
        """Whether near-duplicates were left in the data by decision when the requests were planned."""
        matched = (self.ledger.request(name).latest("matched") or {} for name in self.plan.requests)
        return any(entry.get("near_duplicates_left") for entry in matched)

    def _audit(self, model: PlannedModel) -> Finding:
        judged = "by its level table" if model.level_table is not None else f"with {len(self.references)} references"
        self.notify(f"{model.name}: audit {judged}")
        evidence = self._evidence(model)
        return Finding(evidence.verdict, evidence.explanation[0] if evidence.explanation else "", evidence.next_step)

    def _evidence(self, model: PlannedModel) -> Evidence:
        """Audit a model's current result, unless that is done, under the number that the ledger gave the audit."""
        opened = opened_by(self.ledger).last(self.plan.batch, model.weights)
        before = None if opened is None else opened.number - 1
        sets = self._records(model)
        return audit_attempt(self.folder, self.plan, model, self._attempt(model), sets, self.references, before)

    def _has_next(self, model: PlannedModel) -> bool:
        """Whether another method is left; a retraining is not tried again if `auto` already ended with one."""
        attempt = self._attempt(model)
        if attempt + 1 >= len(model.ladder):
            return False
        return exact_by(attempt_folder(self.folder, self.plan, model, attempt)) != model.ladder[attempt + 1]

    def _tried(self, model: PlannedModel, finding: Finding) -> dict[str, Any]:
        attempt = self._attempt(model)
        return {
            "before": model.weights,
            "rung": attempt,
            "method": model.ladder[attempt],
            "verdict": finding.verdict,
            "why": finding.why,
            **self.proofs.facts(model, attempt),
        }

    def _deployed(self, model: PlannedModel) -> dict[str, Any]:
        attempt = self._attempt(model)
        made = attempt_folder(self.folder, self.plan, model, attempt)
        draft_provenance(self.folder, self.plan, model, made)
        return {
            "name": model.name,
            "before": model.weights,
            "after": read_json(made / MANIFEST)["about"]["weights"],
            "method": model.ladder[attempt],
            "folder": made.relative_to(self.folder).as_posix(),
            **self._basis(model, attempt),
            **self.proofs.facts(model, attempt),
            **self._committed(model, made),
        }

    def _basis(self, model: PlannedModel, attempt: int) -> dict[str, Any]:
        """Return what a model goes into service on, and the audit, if one counts: a proof without references does without."""
        proven = self.proofs.proven(model, attempt)
        if proven and not self.references:
            return {"basis": REEXECUTED}
        audited = self._audit_folder(model)
        evidence = Evidence.load(audited / "evidence.json")
        without = "audit" if evidence.verdict == CERTIFYING else EXACT_REBUILD
        return {
            "basis": REEXECUTED if proven else without,
            "verdict": evidence.verdict,
            "audit": audited.relative_to(self.folder).as_posix(),
            "evidence": file_digest(audited / "evidence.json"),
        }

    def _committed(self, model: PlannedModel, made: Path) -> dict[str, Any]:
        """Commit to the training of the new weights, for the next deletion; return the root, or nothing where it has no log."""
        path = model_folder(self.folder, self.plan, model) / COMMITMENT
        if commitment_root(made) is None:
            return {}
        if not path.exists():  # it exists where an earlier call was killed here
            TrainingCommitment.of(made).save(path)
        return {"root": TrainingCommitment.load(path).root}
