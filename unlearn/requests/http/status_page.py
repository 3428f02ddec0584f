"""Status page: number of requests by state and by deadline, without ids, names or scripts."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta

from unlearn.requests.ledger.request import Request
from unlearn.requests.ledger.states import STATES

STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}caption{text-align:left;font-weight:600}"
    "th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ccc}td{text-align:right}"
)
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}
HORIZONS = (("overdue", None, -1), ("in the next 7 days", 0, 7), ("in 8 to 30 days", 8, 30), ("later", 31, None))
"""Ranges of days from today: name, first and last day, inclusive; None is unbounded."""


def render(requests: Sequence[Request], today: date) -> str:
    """Render the page as HTML that contains only numbers, dates and fixed words."""
    states = Counter(request.state for request in requests)
    days = [(request.due - today).days for request in requests if request.outcome is None]
    due = {
        name: sum((first is None or first <= day) and (last is None or day <= last) for day in days)
        for name, first, last in HORIZONS
    }
    nearest = f"{today + timedelta(days=min(days))}" if days else "none"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Deletion requests</title><style>{STYLE}</style></head><body><main><h1>Deletion requests</h1>"
        f"<p>On {today}: {len(requests)} requests in total, {len(days)} of them open. Nearest deadline: {nearest}.</p>"
        + _table("By state", {state: states[state] for state in STATES if states[state]})
        + _table("Open requests by deadline", due)
        + "</main></body></html>"
    )


def _table(caption: str, rows: dict[str, int]) -> str:
    body = "".join(f'<tr><th scope="row">{name.replace("_", " ")}</th><td>{count}</td></tr>' for name, count in rows.items())
    return f"<table><caption>{caption}</caption><tbody>{body}</tbody></table>"
