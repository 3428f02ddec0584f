"""Export of all requests for record keeping, and the metrics that California requires of large businesses.

11 CCR 7101(a) has requests and answers kept for at least 24 months; 7102(a)(1) has businesses that handle the data of ten million
consumers publish, for each calendar year, how many requests to delete they received, complied with and denied, and the median or
mean number of days until the answer. Nothing in an export identifies a person.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from statistics import mean, median
from typing import Any

from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.states import REFUSALS
from verify.schema.moments import day_in

SCHEMA = "unlearn-verify/request-export/1"


def exported(requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Return one row per request: how it came in, its deadlines, how it ended and when; dates in ISO 8601."""
    return [_row(request) for request in requests]


def _row(request: Request) -> dict[str, Any]:
    deadlines, closed = request.deadlines, closed_on(request)
    refused = next((step.details.get("reason") for step in reversed(request.steps) if step.state in REFUSALS), None)
    return {
        "id": request.id,
        "regime": request.first["regime"],
        "country": request.first["country"],
        "source": request.first["source"],
        "received": request.first["received"],
        "confirm_by": deadlines.confirm,
        "answer_by": request.due,
        "extended": request.extension is not None,
        "state": request.state,
        "outcome": request.outcome,
        "reason": refused if request.outcome in REFUSALS else None,
        "closed": closed,
        "days": None if closed is None else (closed - date.fromisoformat(request.first["received"])).days,
        "in_time": None if closed is None else closed <= request.due,
    }


def closed_on(request: Request) -> date | None:
    """Return the local day on which a request was closed, that of its letter; None while it is open."""
    closed = next((step for step in request.steps if step.state == "closed"), None)
    if closed is None:
        return None
    moment = datetime.fromisoformat(closed.at)
    return day_in(None, moment) or moment.date()


def ccpa_metrics(requests: Sequence[Request], year: int) -> dict[str, Any]:
    """Compute the metrics of 11 CCR 7102(a)(1) for requests to delete that were received under CCPA in a calendar year.

    Args:
        requests: requests of any regime and year.
        year: the calendar year.

    Returns:
        counts, and the median and mean number of days from receipt to closing, over those that were closed; None without any.
    """
    rows = [_row(request) for request in requests if request.first["regime"] == "ccpa"]
    rows = [row for row in rows if date.fromisoformat(row["received"]).year == year]
    outcomes = [row["outcome"] for row in rows]
    days = [row["days"] for row in rows if row["days"] is not None]
    return {
        "year": year,
        "received": len(rows),
        "complied": outcomes.count("deleted"),
        "denied": sum(outcome in ("denied", "exempt") for outcome in outcomes),
        "nothing_found": outcomes.count("not_found"),
        "withdrawn": outcomes.count("withdrawn"),
        "open": outcomes.count(None),
        "median_days": median(days) if days else None,
        "mean_days": mean(days) if days else None,
    }


def as_json(requests: Sequence[Request], metrics: Mapping[str, Any] | None, head: str) -> str:
    """Format an export as JSON, with the ledger's head, which commits to all of it."""
    content = {"schema": SCHEMA, "ledger_head": head, "requests": exported(requests)}
    return json.dumps(content | ({} if metrics is None else {"ccpa_metrics": metrics}), indent=2, default=str) + "\n"


def as_csv(requests: Sequence[Request]) -> str:
    """Format an export as CSV with a header; a text that a spreadsheet would compute is preceded by an apostrophe."""
    stream = io.StringIO()
    rows = exported(requests)
    names = list(rows[0]) if rows else ["id"]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
