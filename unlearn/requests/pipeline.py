"""Run a planned batch to deployment: register, unlearn, prove or audit, and try the next method if the result is refused.

An exact rebuild is executed again (`unlearn.requests.reexecution`): equal bit for bit, on a training that was committed to before,
it goes into service, and an audit is an addition, made where there are references. Everything else is judged by its audit.

Every step first checks whether it is done: the ledger records the state of the batch, and manifests mark finished results. So the
same command continues after a kill at any moment, and nothing finished is made twice. The old weights are not touched: they stay in
service until the operator has replaced them and recorded that.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unlearn.requests.acceptance import objection, require_no_return, require_same_references
from unlearn.requests.attempt import exact_by, run_attempt
from unlearn.requests.audit_numbers import opened_by, require_planned_levels, was_scored
from unlearn.requests.awaited_audits import BEGUN, awaited_audits, require_agreeing_plans
from unlearn.requests.batch import Batch, Notify
from unlearn.requests.batch_folder import CACHE, attempt_folder
from unlearn.requests.batch_state import batch_of, require_not_replaced
from unlearn.requests.deployment import deployed, tried
from unlearn.requests.judging import Finding, judge, testable_now
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.registering import controls_to_use, register_audit, require_fitting_references
from unlearn.requests.training_sets import require_clean
from verify.certificate.opened_audits import AUDITS, NOT_MADE, not_made, opening
from verify.data.identity import RecordKey
from verify.errors import InputError, RunError
from verify.io.files import alone_in
from verify.schema.deletion_record import EXACT_REBUILD


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


class _Run(Batch):
    """One run of one batch: its steps, by state."""

    def go(self) -> None:
        """Take steps until the batch is deployed, inconclusive or failed for good."""
        steps: Mapping[str, Callable[[], None]] = {
            "planned": self.begin,
            "unlearning": self.unlearn,
            "verifying": self.verify,
            "failed": self.next_method,
        }
        if self.state() == "inconclusive" and (self.has_new_references or testable_now(self)):
            require_no_return(self)
            self._require_fitting_references()
            self.advance("verifying", **self.used(), **self._opening())
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
        require_same_references(self, "inconclusive")
        for model in self.plan.models:
            attempt = self.attempt(model)
            if self.proofs.proven(model, attempt):
                continue
            if (against := objection(self, model)) is not None:
                raise InputError(f"{model.name} cannot be accepted as an exact rebuild: {against}.")
            self.notify(f"{model.name}: accepted on the operator's word; {self.proofs.missing(model, attempt)}")
        self.advance("verifying", accepted=EXACT_REBUILD, **self.used())
        self.go()

    def _require_begun_references(self) -> None:
        """Check that an audit is resumed with the references with which it began, which are those that the ledger counts."""
        begun, used = self.request().latest("verifying") or {}, self.used()
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
            require_fitting_references(self.plan, model, self.records(model), self.references, self.key)

    def begin(self) -> None:
        """Register every audit, which must precede any unlearning."""
        require_clean(self.references, self.plan.records)
        digests, used = dict[str, str](), list[str | None]()
        for model in self.plan.models:
            require_not_replaced(self.ledger.requests(), model)
            if not Path(model.folder).is_dir():
                raise InputError(f"{model.folder} no longer exists. Restore it, or run `unlearn request plan` again.")
            require_fitting_references(self.plan, model, self.records(model), self.references, self.key)
            digests[model.weights] = register_audit(self.folder, self.plan, model, self.records(model))
            used.append(controls_to_use(self.folder, self.plan, model, self.attempt(model), self.references))
        attempts = {model.weights: self.attempt(model) for model in self.plan.models}
        self.advance("unlearning", partial(self._require_in_turn, used), registrations=digests, rungs=attempts)
        self.notify("registered the records, tests and thresholds of the audit")

    def _require_in_turn(self, used: Sequence[str | None], requests: Sequence[Request]) -> None:
        """Check that nobody replaced the batch's models or fixed other levels of its audits since it was planned.

        Args:
            used: what identifies the controls of each audit; None without controls.
            requests: all requests of the ledger, as they are when the batch begins.

        Raises:
            InputError: somebody did.
        """
        opened, awaited = opened_by(requests), awaited_audits(requests, self.plan.requests, BEGUN)
        for model in self.plan.models:
            require_not_replaced(requests, model)
        for controls in used:
            require_planned_levels(opened, controls, self.plan.settings)
            require_agreeing_plans(awaited, controls, self.plan.settings)

    def unlearn(self) -> None:
        """Run every model's current method; if one diverges, its model gets the next method."""
        require_no_return(self)
        if self.has_new_references:
            self._require_fitting_references()
        for model in self.plan.models:
            attempt = self.attempt(model)
            self.notify(f"{model.name}: {model.ladder[attempt]}")
            try:
                run_attempt(self.folder, self.plan, model, attempt, self.records(model))
            except RunError as error:
                # A full disk has the system's error as its cause, and the same command can succeed later; a divergence has none.
                if error.__cause__ is not None or attempt + 1 >= len(model.ladder):
                    raise
                self.advance("failed", models=[tried(self, model, Finding("NOT_TESTABLE", str(error), None))], final=False)
                return
        self.advance("verifying", **self.used(), **self._opening())

    def verify(self) -> None:
        """Execute every result again or audit it, and deploy, try the next method or stop."""
        accepted = (self.request().latest("verifying") or {}).get("accepted") == EXACT_REBUILD
        if accepted:  # by an earlier call that was killed before it deployed
            require_same_references(self, "verifying")
        self._require_begun_references()
        found = {model: judge(self, model) for model in self.plan.models}
        left = [model for model, finding in found.items() if not finding.deployable]
        left = [model for model in left if found[model].refused or not accepted or objection(self, model) is not None]
        retrying, ended = [model for model in left if self._has_next(model)], self._not_made()
        if not left:
            self.advance("deployed", models=[deployed(self, model) for model in self.plan.models], **ended)
            shutil.rmtree(self.folder / CACHE, ignore_errors=True)
        elif retrying:
            self.advance("failed", models=[tried(self, model, found[model]) for model in retrying], final=False, **ended)
        elif any(found[model].refused for model in left):
            self.advance("failed", models=[tried(self, model, found[model]) for model in left], final=True, **ended)
        else:
            needed = next((found[model].needed for model in left if found[model].needed), found[left[0]].why)
            entries = [tried(self, model, found[model]) for model in left]
            self.advance("inconclusive", models=entries, needed=needed, audited=self.audited(), **ended)

    def _opening(self) -> dict[str, Any]:
        """Return the audits that begin with the next event, so that the ledger numbers them before anybody sees their results."""
        found, settings = [], self.plan.settings
        for model in self.plan.models:
            controls = controls_to_use(self.folder, self.plan, model, self.attempt(model), self.references)
            if controls is not None:
                found.append(opening(model.weights, controls, settings.alpha, settings.expected_audits))
        return {AUDITS: found} if found else {}

    def _not_made(self) -> dict[str, Any]:
        """Return which of the audits that began with this step were not made, because a re-execution decided in their place."""
        begun = {entry["before"] for entry in (self.request().latest("verifying") or {}).get(AUDITS, ())}
        models = [model for model in self.plan.models if model.weights in begun and not was_scored(self.audit_folder(model))]
        return {NOT_MADE: [not_made(self.plan.batch, model.weights) for model in models]} if begun else {}

    def next_method(self) -> None:
        """Remove the failed weights, as they may still hold the records, and plan the next method."""
        failed = self.request().latest("failed")
        assert failed is not None, "the state says so"
        for entry in failed["models"]:
            model = next(model for model in self.plan.models if model.weights == entry["before"])
            shutil.rmtree(attempt_folder(self.folder, self.plan, model, int(entry["rung"])), ignore_errors=True)
            self.notify(f"{model.name}: {entry['method']} was {entry['verdict']}; next is {model.ladder[int(entry['rung']) + 1]}")
        again = {entry["before"] for entry in failed["models"]}
        models = [
            {"name": model.name, "weights": model.weights, "method": model.ladder[self.attempt(model)]}
            for model in self.plan.models
            if model.weights in again
        ]
        self.advance("planned", answer_by=self.plan.answer_by.isoformat(), models=models)

    def _failed_for_good(self) -> bool:
        request = self.request()
        return request.state == "failed" and bool((request.latest("failed") or {}).get("final"))

    def _has_next(self, model: PlannedModel) -> bool:
        """Return whether another method is left; a retraining is not tried again if `auto` already ended with one."""
        attempt = self.attempt(model)
        if attempt + 1 >= len(model.ladder):
            return False
        return exact_by(attempt_folder(self.folder, self.plan, model, attempt)) != model.ladder[attempt + 1]
