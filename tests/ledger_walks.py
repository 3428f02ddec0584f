"""Requests for tests of the ledger: a new one, and one that is walked to its end."""

from datetime import date

from unlearn.requests.ledger.ledger import Ledger, NewRequest

WAY = ("identity_verified", "matched", "planned", "unlearning", "verifying")
MODELS = [{"before": "a" * 64, "after": "b" * 64, "verdict": "EQUIVALENT_WITHIN"}]


def new(subject: str = "5" * 32, **changes: object) -> NewRequest:
    return NewRequest(**{"subjects": (subject,), "regime": "gdpr", "received": date(2026, 3, 2), **changes})  # type: ignore[arg-type]


def walk(ledger: Ledger) -> str:
    """A request on the whole way."""
    name = ledger.add(new())
    for state in WAY:
        ledger.advance(name, state)  # type: ignore[arg-type]
    ledger.advance(name, "deployed", models=MODELS)
    ledger.advance(name, "purged", residual=[], retired=["a" * 64])
    ledger.advance(name, "closed")
    return name
