"""No request is lost, none closes as deleted while an old model serves or a copy is unexplained: property-based."""

import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unlearn.requests.ledger.ledger import Ledger, NewRequest, Request
from unlearn.requests.ledger.states import NEXT, STATES
from verify import InputError

DAY = date(2026, 3, 2)
OLD = ["a" * 64, "b" * 64]
MODELS = [{"before": digest, "after": "c" * 64, "verdict": "EQUIVALENT_WITHIN"} for digest in OLD]
WAY = ("identity_verified", "matched", "planned", "unlearning", "verifying", "deployed", "purged", "closed")


class LifeOfRequests(RuleBasedStateMachine):
    """Random operators do random things; crashes happen between them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.ids: list[str] = []
        self.heads: list[str] = []

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger(self.path)

    @rule(subject=st.text("0123456789abcdef", min_size=32, max_size=32))
    def add(self, subject: str) -> None:
        self.ids.append(self.ledger.add(NewRequest((subject,), "gdpr", DAY)))

    @precondition(lambda self: self.ids)
    @rule(
        pick=st.integers(0),
        state=st.sampled_from(STATES),
        verdict=st.sampled_from(["EQUIVALENT_WITHIN", "NOT_FORGOTTEN"]),
        retired=st.lists(st.sampled_from(OLD), unique=True),
        reasons=st.lists(st.sampled_from(["", " ", "a backup that expires on 1 May"]), max_size=2),
        allowed=st.none() | st.integers(0),
        batch=st.sampled_from(["B-1", "B-2", "B-3"]),
    )
    def advance(
        self, pick: int, state: str, verdict: str, retired: list[str], reasons: list[str], allowed: int | None, batch: str
    ) -> None:
        name = self.ids[pick % len(self.ids)]
        before = self.ledger.request(name)
        if allowed is not None and NEXT[before.state]:  # else hardly any request came far
            state = NEXT[before.state][allowed % len(NEXT[before.state])]
        details = {
            "reason": "as the law allows",
            "models": [{"before": digest, "after": "c" * 64, "verdict": verdict} for digest in OLD],
            "retired": retired,
            "residual": [{"what": "checkpoint", "reason": reason} for reason in reasons],
            "batch": batch,
        }
        try:
            after = self.ledger.advance(name, state, **details)  # type: ignore[arg-type]
        except InputError:
            assert self.ledger.request(name) == before, "a refused step writes nothing"
            return
        assert state in NEXT[before.state]
        assert after.steps[:-1] == before.steps, "the past is never changed"

    @rule()
    def crash(self) -> None:
        """The process dies between two steps; the next one opens the same file."""
        self.ledger.close()
        self.ledger = Ledger(self.path)

    @rule()
    def note_the_head(self) -> None:
        self.heads.append(self.ledger.head())

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "ledger"):
            assert [request.id for request in self.ledger.requests()] == self.ids
            self.ledger.verify()
            for head in self.heads:
                self.ledger.verify(head)

    @invariant()
    def deleted_means_deleted(self) -> None:
        if hasattr(self, "ledger"):
            for request in self.ledger.requests("closed"):
                if request.outcome == "deleted":
                    assert_deleted(request)

    @invariant()
    def the_way_out_is_consistent(self) -> None:
        if hasattr(self, "ledger"):
            for request in self.ledger.requests():
                assert_consistent(request)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.folder.cleanup()


def assert_consistent(request: Request) -> None:
    """Nothing is refused or matched anew where new weights serve, and every step is one of the last plan."""
    states = [step.state for step in request.steps]
    if "deployed" in states:
        assert set(states[states.index("deployed") :]) <= {"deployed", "purged", "closed"}
    if "unlearning" in states:
        assert not {"matched", "not_found"} & set(states[states.index("unlearning") :])
    if request.state == "closed":
        assert request.outcome == ("deleted" if states[-2] == "purged" else states[-2])
    planned: list[Any] = []
    for step in request.steps:
        if step.state == "planned":
            assert step.details["batch"] not in planned[:-1], "a plan that was left is not taken up again"
            planned += [step.details["batch"]] if step.details["batch"] not in planned else []
        elif planned:
            assert step.details["batch"] == planned[-1]


def assert_deleted(request: Request) -> None:
    """Every model that went into service was verified, every old one is retired, every copy has its reason."""
    deployed, purged = request.latest("deployed"), request.latest("purged")
    assert deployed is not None
    assert purged is not None
    assert all(model["verdict"] == "EQUIVALENT_WITHIN" for model in deployed["models"])
    retired = {digest for step in request.steps for digest in step.details.get("retired", ())}
    assert {model["before"] for model in deployed["models"]} <= retired
    assert all(copy["reason"].strip() for copy in purged["residual"])


TestLifeOfRequests = LifeOfRequests.TestCase
TestLifeOfRequests.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def walked(ledger: Ledger, last: str) -> str:
    """A request on its way, up to a state."""
    name = ledger.add(NewRequest(("5" * 32,), "gdpr", DAY))
    facts: dict[str, Any] = {"deployed": {"models": MODELS}, "purged": {"retired": OLD, "residual": []}}
    for state in WAY[: WAY.index(last) + 1]:
        ledger.advance(name, state, **facts.get(state, {}))  # type: ignore[arg-type]
    return name


@pytest.mark.parametrize("refusal", ["denied", "exempt", "withdrawn"])
def test_until_new_weights_serve_a_request_can_be_refused(ledger: Ledger, refusal: Any) -> None:
    """From every state before `deployed`, also from one in which the pipeline is stuck; and after it from none."""
    for state in WAY[: WAY.index("deployed")]:
        name = walked(ledger, state)
        ledger.advance(name, refusal, reason="as the law allows")
        assert ledger.advance(name, "closed").outcome == refusal
    for state in ("failed", "inconclusive"):
        name = walked(ledger, "verifying")
        ledger.advance(name, state)  # type: ignore[arg-type]
        assert ledger.advance(name, refusal, reason="as the law allows").state == refusal
    for state in ("deployed", "purged", "closed"):
        with pytest.raises(InputError, match="cannot become"):
            ledger.advance(walked(ledger, state), refusal, reason="as the law allows")


def test_what_was_not_found_once_and_deleted_later_is_deleted(ledger: Ledger) -> None:
    """The outcome is the last word, not any refusal of the past."""
    name = walked(ledger, "identity_verified")
    ledger.advance(name, "not_found")
    for state, facts in zip(WAY, [{}] * 5 + [{"models": MODELS}, {"retired": OLD, "residual": []}, {}], strict=True):
        ledger.advance(name, state, **facts)  # type: ignore[arg-type]
    assert ledger.request(name).outcome == "deleted"


def test_a_plan_that_was_left_is_not_gone_on_with(ledger: Ledger) -> None:
    """Whoever works by an earlier plan is refused at the next step, for all its requests; so is going back to that plan."""
    names = [walked(ledger, "matched") for _ in range(2)]
    ledger.advance_all(names, "planned", batch="B-1")
    ledger.advance_all(names, "unlearning", batch="B-1")
    ledger.advance_all(names[1:], "planned", batch="B-2")
    before = ledger.head()
    for state in ("verifying", "planned", "unlearning"):
        with pytest.raises(InputError, match="planned again, in B-2"):
            ledger.advance_all(names, state, batch="B-1")  # type: ignore[arg-type]
    assert ledger.head() == before, "nothing is written of a step that one of them may not take"
    ledger.advance_all(names[1:], "unlearning", batch="B-2")
