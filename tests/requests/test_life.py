"""The whole life of requests under random operators, verdicts and crashes: property-based, with methods that are simulated.

Ledger, plans, batches and the order of the steps are the real ones; only training, audit and search are stand-ins.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from audits import evidence_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plans import MODEL
from score_tables import simulated_table

from unlearn.requests import acceptance, close, judging, pipeline, purging
from unlearn.requests.audit_numbers import NextAudits, left_by, noting_scores, opened_by, opened_once_noted, require_planned_levels
from unlearn.requests.awaited_audits import awaited_facts
from unlearn.requests.batch_folder import CACHE, attempt_folder
from unlearn.requests.batch_state import PLANNABLE
from unlearn.requests.close import close_request
from unlearn.requests.copies_left import Left
from unlearn.requests.judging import Finding
from unlearn.requests.ledger.ledger import Ledger, NewRequest, Request
from unlearn.requests.pipeline import run_batch
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.purging import Cleaning, purge_batch
from unlearn.requests.training_sets import TrainingSets
from verify import InputError, RunError
from verify.certificate.opened_audits import opening
from verify.data.identity import RecordKey
from verify.io.files import is_complete, write_manifest
from verify.judging.gates import all_of_alpha_gate
from verify.schema.parts import RecordFinding
from verify.schema.settings import Settings

DAY = date(2026, 11, 2)
KEY = RecordKey(b"k" * 32)
OLD = ["a" * 64, "b" * 64]
VERDICTS = ["EQUIVALENT_WITHIN", "NOT_FORGOTTEN", "INCONCLUSIVE", "NOT_TESTABLE"]
FOUND = RecordFinding(record="e" * 32, residual=0.6, direction="remembered", adjusted_p=0.001)
FAILED = all_of_alpha_gate("NOT_FORGOTTEN")


class Crash(BaseException):
    """The process dies here."""


class LifeOfDeletions(RuleBasedStateMachine):
    """Operators add, approve, plan, run, clean and close in any order, one of them also while another runs; the process may die
    before or after any event or method."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.ids: list[str] = []
        self.made: Counter[Path] = Counter()
        self.copies: list[dict[str, str]] = []
        self.verdict, self.fuse, self.batches = VERDICTS[0], 0, 0
        self.meanwhile: Callable[[], Any] | None = None
        self.patches: list[Any] = []

    @initialize()
    def open(self) -> None:
        (self.root / "old").mkdir()
        self.ledger = Ledger(self.root / "ledger.db")
        run = pipeline._Run
        replaced: list[tuple[Any, str, Callable[..., Any]]] = [
            (pipeline, "require_fitting_references", lambda *_: None),
            (pipeline, "register_audit", self.register_audit),
            (pipeline, "run_attempt", self.run_attempt),
            (pipeline, "controls_to_use", lambda *_: None),  # of the registration, which is simulated, too
            (run, "records", lambda *_: TrainingSets([], [])),
            (judging, "audit", lambda *_: Finding(self.verdict, "simulated", "more references")),
            (
                pipeline,
                "deployed",
                lambda _, model: {"name": model.name, "before": model.weights, "after": "c" * 64, "verdict": self.verdict},
            ),
            (purging, "suppress", lambda *_: 0),
            (close, "write_documents", lambda *_: []),
            (close, "_require_evidence", lambda *_: None),
            (purging, "clean", lambda *_, **__: Left(tuple(self.copies), {})),
            (close, "_record_of", lambda *_: None),
            (Ledger, "advance_each", self.advancing(Ledger.advance_each)),
        ]
        self.patches = [mock.patch.object(owner, name, function) for owner, name, function in replaced]
        for patch in self.patches:
            patch.start()

    def spark(self) -> None:
        """One place where the process may die."""
        self.fuse -= 1
        if self.fuse == 0:
            raise Crash

    def advancing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def advance_each(ledger: Ledger, *given: Any) -> Any:
            self.spark()
            found = real(ledger, *given)
            self.spark()
            return found

        return advance_each

    def register_audit(self, *_: Any) -> str:
        self.let_another_act()
        return "d" * 64

    def let_another_act(self) -> None:
        """What another operator does while this one works."""
        action, self.meanwhile = self.meanwhile, None
        if action is not None:
            action()

    def run_attempt(self, folder: Path, plan: Plan, model: PlannedModel, rung: int, _: TrainingSets) -> Path:
        output = attempt_folder(folder, plan, model, rung)
        if not is_complete(output, "model"):
            self.spark()
            output.mkdir(parents=True, exist_ok=True)
            self.made[output] += 1
            write_manifest(output, "model", {"weights": "c" * 64, "method": model.ladder[rung]})
            self.spark()
        if self.made.total() % 2:  # sometimes while it registers, sometimes later
            self.let_another_act()
        return output

    def attempt(self, fuse: int, action: Callable[[], Any]) -> None:
        """Do something; it may be refused, and the process may die. The next one opens the same files."""
        self.fuse = fuse
        try:
            action()
        except InputError:
            pass
        except Crash:
            self.ledger.close()
            self.ledger = Ledger(self.root / "ledger.db")
        self.fuse = 0

    def pick(self, number: int) -> str:
        return self.ids[number % len(self.ids)]

    @rule(many=st.integers(1, 3))
    def add(self, many: int) -> None:
        self.ids += self.ledger.add_all([NewRequest(("5" * 32,), "gdpr", DAY)] * many)

    @precondition(lambda self: self.ids)
    @rule(number=st.integers(0), state=st.sampled_from(["withdrawn", "denied", "exempt"]))
    def end_early(self, number: int, state: Any) -> None:
        self.attempt(0, lambda: self.ledger.advance(self.pick(number), state, reason="as the law allows"))

    @precondition(lambda self: self.ids)
    @rule(numbers=st.lists(st.integers(0), min_size=1, max_size=3), ladder=st.sampled_from([("retrain",), ("npo", "retrain")]))
    def approve_and_plan(self, numbers: list[int], ladder: tuple[str, ...]) -> None:
        names = list(dict.fromkeys(self.pick(number) for number in numbers))
        for name in names:
            if self.ledger.request(name).state == "received":
                self.ledger.advance(name, "identity_verified")
            if self.ledger.request(name).state == "identity_verified":
                self.ledger.advance(name, "matched", records=[], places=[])
        names = [name for name in names if self.ledger.request(name).state in PLANNABLE]
        if names:
            self.attempt(0, lambda: self.plan_anew(names, ladder))

    def plan_anew(self, names: list[str], ladder: tuple[str, ...]) -> None:
        self.batches += 1
        plan = self.plan(names, ladder)
        digest = plan.save(self.root / "deletions" / plan.batch)
        self.ledger.advance_all(names, "planned", **plan.facts(digest))

    def plan(self, names: list[str], ladder: tuple[str, ...]) -> Plan:
        models = [
            PlannedModel(
                folder=str(self.root / "old"),
                weights=weights,
                origin="old",
                records=("e" * 32,),
                people=1,
                ladder=ladder,
                base=None,
                cost="",
                shown="",
            )
            for weights in OLD
        ]
        return Plan(
            batch=f"B-{self.batches:012x}",
            requests=tuple(names),
            subjects=(),
            answer_by=DAY,
            data=(),
            places=(),
            fields={},
            models=tuple(models),
            roots=(),
            references=(),
            holdout=None,
            settings=Settings(),
        )

    @precondition(lambda self: self.ids)
    @rule(number=st.integers(0), verdict=st.sampled_from(VERDICTS), fuse=st.integers(0, 14), more=st.booleans())
    def run(self, number: int, verdict: str, fuse: int, more: bool) -> None:
        self.verdict = verdict
        references = ["r"] if more else []
        self.attempt(fuse, lambda: run_batch(self.ledger, self.root / "deletions", self.pick(number), KEY, references))

    @precondition(lambda self: self.ids)
    @rule(
        number=st.integers(0),
        other=st.integers(0),
        verdict=st.sampled_from(VERDICTS),
        state=st.sampled_from(["withdrawn", "denied", "planned"]),
    )
    def run_while_another_acts(self, number: int, other: int, verdict: str, state: Any) -> None:
        name = self.pick(other)

        def act() -> None:
            if state != "planned":
                self.ledger.advance(name, state, reason="as the law allows")
            elif self.ledger.request(name).state in PLANNABLE:
                self.plan_anew([name], ("retrain",))

        self.meanwhile = act
        self.run(number, verdict, 0, more=False)
        self.meanwhile = None

    @precondition(lambda self: self.ids)
    @rule(
        number=st.integers(0),
        retired=st.lists(st.sampled_from(OLD), unique=True),
        reasons=st.lists(st.sampled_from(["", " ", "a backup that expires on 1 May"]), max_size=2),
        fuse=st.integers(0, 3),
    )
    def purge(self, number: int, retired: list[str], reasons: list[str], fuse: int) -> None:
        self.copies = [{"place": "x", "kind": "copy", "reason": reason} for reason in reasons]
        listed = self.root / "suppressed.jsonl"
        action = lambda: purge_batch(self.ledger, self.root / "deletions", self.pick(number), KEY, listed, Cleaning(), retired)  # noqa: E731
        self.attempt(fuse, action)

    @precondition(lambda self: self.ids)
    @rule(number=st.integers(0), fuse=st.integers(0, 3))
    def close(self, number: int, fuse: int) -> None:
        self.attempt(fuse, lambda: close_request(self.ledger, self.root / "deletions", self.pick(number)))

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "ledger"):
            assert [request.id for request in self.ledger.requests()] == self.ids
            self.ledger.verify()

    @invariant()
    def nothing_is_made_twice(self) -> None:
        assert all(count == 1 for count in self.made.values())

    @invariant()
    def a_batch_moves_as_a_whole(self) -> None:
        """Every step is one of the last plan, and new weights serve for all requests that they were planned for."""
        for request in self.ledger.requests() if hasattr(self, "ledger") else ():
            batch = None
            for step in request.steps:
                batch = step.details["batch"] if step.state == "planned" else batch
                assert step.details.get("batch", batch) == batch
            if request.latest("deployed") is not None:
                plan = Plan.load(self.root / "deletions" / str(batch), str((request.latest("planned") or {})["plan"]))
                assert all(self.ledger.request(name).latest("deployed") is not None for name in plan.requests)

    @invariant()
    def deleted_means_deleted(self) -> None:
        if hasattr(self, "ledger"):
            for request in self.ledger.requests("closed"):
                if request.outcome == "deleted":
                    assert_deleted(request)

    def teardown(self) -> None:
        for patch in self.patches:
            patch.stop()
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.folder.cleanup()


def assert_deleted(request: Request) -> None:
    """Verified models only, every old one retired, every copy explained, and a registration before anything was unlearned."""
    steps: Mapping[str, Any] = {step.state: step.details for step in request.steps}
    assert all(model["verdict"] == "EQUIVALENT_WITHIN" for model in steps["deployed"]["models"])
    retired = {digest for step in request.steps for digest in step.details.get("retired", ())}
    assert set(OLD) <= retired
    assert all(copy["reason"].strip() for copy in steps["purged"]["residual"])
    assert set(steps["unlearning"]["registrations"]) == set(OLD)


def test_a_plain_life() -> None:
    """Without crashes and refusals the machine's own rules lead to a deletion: the properties below are about something."""
    life = LifeOfDeletions()
    life.open()
    try:
        life.add(2)
        life.approve_and_plan([0, 1], ("npo", "retrain"))
        life.run(0, "NOT_FORGOTTEN", 6, more=False)
        life.run(0, "EQUIVALENT_WITHIN", 0, more=False)
        life.purge(0, [], [], 0)
        life.purge(0, OLD, ["a backup that expires on 1 May"], 0)
        life.close(1, 0)
        assert [request.outcome for request in life.ledger.requests()] == ["deleted", "deleted"]
        life.deleted_means_deleted()
    finally:
        life.teardown()


def test_two_operators() -> None:
    """One plans anew while the other registers: the other stops, and says why; the new plan is run, to its end."""
    life = LifeOfDeletions()
    life.open()
    try:
        life.add(1)
        life.approve_and_plan([0], ("retrain",))
        (name,), output = life.ids, life.root / "deletions"
        life.meanwhile = lambda: life.plan_anew([name], ("retrain",))
        with pytest.raises(InputError, match="planned again, in B-000000000002"):
            run_batch(life.ledger, output, name, KEY)
        assert [step.state for step in life.ledger.request(name).steps][3:] == ["planned", "planned"]
        assert run_batch(life.ledger, output, name, KEY).batch == "B-000000000002"
        assert life.ledger.request(name).state == "deployed"
    finally:
        life.teardown()


@pytest.mark.parametrize("stuck", ["unlearning", "verifying"])
def test_a_stuck_batch_is_left(stuck: str) -> None:
    """A method that cannot run, an audit that cannot be made: one of two requests is refused, the other planned anew, and deleted.
    The statistics of single records that the batch that was left had kept go with the cleaning."""
    life = LifeOfDeletions()
    life.open()
    place = (pipeline, "run_attempt") if stuck == "unlearning" else (judging, "audit")
    try:
        life.add(2)
        life.approve_and_plan([0, 1], ("retrain",))
        with mock.patch.object(*place, side_effect=InputError("the files are not there")):
            life.run(0, VERDICTS[0], 0, more=False)
        assert {request.state for request in life.ledger.requests()} == {stuck}
        life.end_early(0, "denied")
        other = life.ids[1]
        with pytest.raises(InputError, match=f"--ids {other} "):
            run_batch(life.ledger, life.root / "deletions", other, KEY)
        for batch in ("B-000000000001", "B-000000000002"):
            (life.root / "deletions" / batch / CACHE).mkdir(parents=True)
        life.approve_and_plan([1], ("retrain",))
        life.run(1, VERDICTS[0], 0, more=False)
        (life.root / "deletions" / "B-000000000002" / CACHE).mkdir()  # as if it was killed before it could remove it
        life.purge(1, OLD, [], 0)
        assert not list(life.root.rglob(CACHE))
        (life.root / "deletions" / "B-000000000001" / CACHE).mkdir()
        for number in (0, 1):
            life.close(number, 0)
        assert [request.outcome for request in life.ledger.requests()] == ["denied", "deleted"]
        assert not list(life.root.rglob(CACHE)), "nor does a refused request leave any"
    finally:
        life.teardown()


def test_a_method_that_diverges_is_left_for_the_next() -> None:
    """A loss that is not finite is a reason to climb, for each model in its turn."""
    life = LifeOfDeletions()
    life.open()
    real = life.run_attempt

    def failing(folder: Path, plan: Plan, model: PlannedModel, rung: int, sets: TrainingSets) -> Path:
        if model.ladder[rung] == "npo":
            raise RunError("the loss became nan in step 3")
        return real(folder, plan, model, rung, sets)

    try:
        life.add(1)
        life.approve_and_plan([0], ("npo", "retrain"))
        with mock.patch.object(pipeline, "run_attempt", failing):
            life.run(0, "EQUIVALENT_WITHIN", 0, more=False)
        states = [step.state for step in life.ledger.request(life.ids[0]).steps]
        climbed = ["unlearning", "failed", "planned"]
        assert states[4:] == [*climbed, *climbed, "unlearning", "verifying", "deployed"]
    finally:
        life.teardown()


@pytest.mark.parametrize("scored", [True, False])
def test_the_ledger_counts_the_audits_of_which_a_score_was_read(scored: bool) -> None:
    """Two models and two methods: four audits, or none where a re-execution decided each time. One that stops, at a check or in the
    middle, is left by the next plan with what was read of it."""
    life = LifeOfDeletions()
    life.open()
    stopped = InputError("a reference is not there")

    def audited(run: pipeline._Run, model: PlannedModel, error: Exception | None = None) -> Finding:
        if scored:
            noting_scores(run.audit_folder(model), lambda _: None)("scoring original", 0.1)
        if error is not None:
            raise error
        return Finding("NOT_FORGOTTEN", "simulated", None)

    try:
        life.add(2)
        with (
            mock.patch.object(pipeline, "controls_to_use", return_value="c" * 64),
            mock.patch.object(judging, "audit", audited),
        ):
            life.approve_and_plan([0], ("npo", "retrain"))
            life.run(0, "NOT_FORGOTTEN", 0, more=False)
        first = opened_by(life.ledger.requests())
        assert [one.number for one in first.opened] == ([1, 2, 3, 4] if scored else [1, 2, 1, 2])
        assert len(first.counted) == (4 if scored else 0)
        with (
            mock.patch.object(pipeline, "controls_to_use", return_value="d" * 64),
            mock.patch.object(judging, "audit", lambda run, model: audited(run, model, stopped)),
        ):
            life.approve_and_plan([1], ("retrain",))
            life.run(1, "NOT_FORGOTTEN", 0, more=False)
        left = left_by([life.ledger.request(name) for name in life.ids], life.root / "deletions")
        named = [entry["before"] for entry in left.get("audits_not_made", ())]
        assert named == (OLD[1:] if scored else OLD), "the first model's audit stopped, and the second's was not begun"
        opened = opened_once_noted(life.ledger.requests(), [life.plan(life.ids[1:], ("retrain",))], life.root / "deletions")
        assert NextAudits(opened).take("d" * 64) == (1 if scored else 0), "a promise is for the number that the audit will have"
        life.ledger.advance(life.ids[1], "planned", batch="B-00000000000f", plan="f" * 64, **left)
        assert opened_by(life.ledger.requests()) == opened
        with pytest.raises(InputError, match="no number planned") if scored else nullcontext():
            require_planned_levels(opened, "d" * 64, Settings(expected_audits=9))
    finally:
        life.teardown()


def test_an_audit_that_is_registered_and_not_opened_yet_fixes_the_levels() -> None:
    """While one batch unlearns, another against the same controls with another number is not begun; once the first is withdrawn, it
    is."""
    life = LifeOfDeletions()
    life.open()
    try:
        life.add(2)
        life.approve_and_plan([0], ("retrain",))
        (first, second), controls = life.ids, "c" * 64
        awaited = awaited_facts([opening(OLD[0], controls, 0.05, 9)])
        plan = life.ledger.request(first).latest("planned") or {}
        life.ledger.advance(first, "planned", **{**plan, **awaited, "batch": "B-00000000000a"})
        life.ledger.advance(first, "unlearning", batch="B-00000000000a")
        life.approve_and_plan([1], ("retrain",))
        with mock.patch.object(pipeline, "controls_to_use", return_value=controls):
            with pytest.raises(InputError, match=f"plan of {first}, which is not audited yet.*run {first} first"):
                run_batch(life.ledger, life.root / "deletions", second, KEY)
            assert life.ledger.request(second).state == "planned"
            life.end_early(0, "withdrawn")
            run_batch(life.ledger, life.root / "deletions", second, KEY)
        assert life.ledger.request(second).state == "deployed"
    finally:
        life.teardown()


def test_references_do_not_judge_again_after_others_did() -> None:
    """Each set of references judges in its turn. One that did is refused once others have, with --references and, where something
    can be executed again by now, without; the last one, and further ones, are taken."""
    life = LifeOfDeletions()
    life.open()

    def audited(run: pipeline._Run, model: PlannedModel) -> Finding:
        folder = run.audit_folder(model)
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, "audit")
        return Finding("INCONCLUSIVE", "simulated", None)

    def run(*references: str) -> None:
        run_batch(life.ledger, life.root / "deletions", life.ids[0], KEY, references)

    try:
        life.add(1)
        life.approve_and_plan([0], ("retrain",))
        with mock.patch.object(judging, "audit", audited), mock.patch("unlearn.requests.batch.digests_of", return_value=()):
            for references in ([], ["1"], ["1", "2"], ["1", "2"]):
                run(*references)
                assert life.ledger.request(life.ids[0]).state == "inconclusive"
            head = life.ledger.head()
            with mock.patch.object(pipeline, "testable_now", return_value=True):
                for references in ([], ["1"]):
                    with pytest.raises(InputError, match="judged this attempt before, and others did later"):
                        run(*references)
            assert life.ledger.head() == head
            run("3")
            assert life.ledger.head() != head
    finally:
        life.teardown()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, None),
        ({"gates": (FAILED.model_copy(update={"name": "negative control"}),)}, None),
        ({"verdict": "NOT_FORGOTTEN", "accused_by": ("retrained references",)}, "against other references says NOT_FORGOTTEN"),
        ({"verdict": "NOT_TESTABLE", "accused": (FOUND,) * 3}, "against other references lists 3 of its records"),
        ({"gates": (FAILED,)}, "against other references failed the check 'all of alpha': Judged at all of alpha"),
    ],
)
def test_an_accusation_stands_against_every_later_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], said: str | None
) -> None:
    """What an audit against other references accused an exact rebuild of is not taken back by one that accuses it of nothing."""
    last = evidence_of(simulated_table(references=2, records=20)).model_copy(update={"verdict": "INCONCLUSIVE", "accused": ()})
    last = last.model_copy(update={"gates": tuple(gate for gate in last.gates if gate.name not in acceptance.OBJECTING)})
    for name in ("audit-0-1", "audit-0-2", "audit-1-1"):
        (tmp_path / name).mkdir()
        last.model_copy(update=other if name == "audit-0-1" else {}).save(tmp_path / name / "evidence.json")
        write_manifest(tmp_path / name, "audit")
    monkeypatch.setattr(acceptance, "evidence_of", lambda *_: last)
    monkeypatch.setattr(acceptance, "exact_by", lambda _: "retrain")
    monkeypatch.setattr(acceptance, "attempt_folder", lambda *_: tmp_path)
    batch: Any = SimpleNamespace(
        folder=tmp_path,
        plan=None,
        attempt=lambda _: 0,
        audit_folder=lambda _: tmp_path / "audit-0-2",
        request=lambda: SimpleNamespace(steps=()),
    )
    found = acceptance.objection(batch, MODEL)
    assert found is None if said is None else said in str(found)


TestLifeOfDeletions = LifeOfDeletions.TestCase
TestLifeOfDeletions.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
