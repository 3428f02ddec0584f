"""Roles of the people who handle a request: who approves it, who runs the deletion, and who closes and signs it.

Every step records the keyed hash of its operator's name, where one is given. A ledger can require three people; then a step without
a name, or by somebody who already acted in another role for this request, is refused. The names are what operators say they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from verify.errors import InputError

Role = Literal["approving", "running", "closing"]
ROLES: Mapping[str, Role] = {
    "identity_verified": "approving",
    "unlearning": "running",
    "verifying": "running",
    "deployed": "running",
    "closed": "closing",
}
"""Role in which a request is advanced to a state."""
LEDGER = "ledger"
"""Stands in place of a request's id where an event is about the ledger itself."""
KEY = "record_key"
"""Event: the check value of the ledger's record key was noted. It stands in the details as "key"."""
SEPARATE = "separate_roles"
"""Event: from now on, the roles of each request take three people."""
OPERATOR = "operator"
"""Detail of an event: keyed hash of the name of who took the step."""


def require_separate(state: str, operator: str | None, history: Sequence[Mapping[str, Any]]) -> None:
    """Check that who takes a step has a name, and has acted in no other role for this request.

    Args:
        state: the state that the step leads to.
        operator: keyed hash of the name; None without one.
        history: details of all earlier steps, each with its "state" added.

    Raises:
        InputError: the name is missing, or is that of somebody in another role.
    """
    role = ROLES.get(state)
    if role is None:
        return
    if operator is None:
        raise InputError(f"this ledger requires a name for {role} a request. Give yours with --operator NAME or $UNLEARN_OPERATOR.")
    before = [str(step["state"]) for step in history if step.get(OPERATOR) == operator]
    others = {other for name in before if (other := ROLES.get(name)) not in (None, role)}
    if others:
        raise InputError(
            f"approving, running and closing a request takes three people in this ledger, and {role} it is not for who acted in "
            f"{' and '.join(sorted(map(str, others)))} it. Ask a colleague to take this step."
        )
