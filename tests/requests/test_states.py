"""No request is lost, none closes as deleted while an old model serves or a copy is unexplained: property-based."""

import tempfile
from datetime import date
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unlearn.requests.ledger import Ledger, NewRequest, Request
from unlearn.requests.states import NEXT, STATES
from verify import InputError

DAY = date(2026, 3, 2)
OLD = ["a" * 64, "b" * 64]


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
    )
    def advance(self, pick: int, state: str, verdict: str, retired: list[str], reasons: list[str]) -> None:
        name = self.ids[pick % len(self.ids)]
        before = self.ledger.request(name)
        details = {
            "reason": "as the law allows",
            "models": [{"before": digest, "after": "c" * 64, "verdict": verdict} for digest in OLD],
            "retired": retired,
            "residual": [{"what": "checkpoint", "reason": reason} for reason in reasons],
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

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.folder.cleanup()


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
