"""Recipients of a request, as the notes about them in a ledger give them: who was added, and what has happened since."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from verify.schema.deletion_record import PARTIES, Recipient

NOBODY = "nobody"
"""Name of the fact that the operator states that there is no recipient."""


def noted_recipients(notes: Iterable[Mapping[str, Any]]) -> dict[str, Recipient] | None:
    """Return the recipients by name, in the order in which they were recorded; None where there is no note.

    Args:
        notes: details of the events `verify.schema.deletion_record.RECIPIENTS`, in order.

    Raises:
        KeyError, TypeError, ValueError: they are not notes of recipients.
    """
    found: dict[str, Recipient] | None = None
    for details in notes:
        found = {} if found is None else found
        for entry in details.get("added", ()):
            found[str(entry["name"])] = Recipient(kind=entry["kind"], due=date.fromisoformat(entry["due"]))
        if (name := str(details.get("name"))) in found:
            found[name] = _after(found[name], details)
    return found


def _after(known: Recipient, details: Mapping[str, Any]) -> Recipient:
    """Return what is known of a recipient after one more note."""
    days = {name: date.fromisoformat(details[name]) for name in ("told", "confirmed") if name in details}
    evidence = {"evidence": details["evidence"]} if "evidence" in details else {}
    unreachable = {"unreachable": True} if "reason" in details else {}
    return known.model_copy(update={**days, **evidence, **unreachable})


def states_nobody(notes: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether the operator states that the data were passed on to nobody, and has recorded no party since."""
    given = list(notes)
    parties = [one for one in (noted_recipients(given) or {}).values() if one.kind in PARTIES]
    return any(details.get(NOBODY) for details in given) and not parties
