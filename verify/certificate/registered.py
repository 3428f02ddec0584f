"""Agreement of a certificate's statements on the registration of its audits, on the ledger's head, and on what came before what.

An audit that was registered after its result could be known proves nothing. The auditor signs which registration an audit followed,
the operator which one was made before unlearning, and when each step was taken; the clocks are theirs, and only an
authority's time stamp (`verify.certificate.timestamps`) shows that a document existed at a time.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from verify.certificate.attachments import Finding, Pair
from verify.certificate.read_statements import deletion_record_of, evidence_of, moment_of
from verify.schema.inputs import CLOCKS, Registered

WHAT = "registration"
MINUTE = timedelta(minutes=1)
HEAD = re.compile("[0-9a-f]{64}")


def registration_findings(pairs: Mapping[str, Pair]) -> Iterator[Finding]:
    """Check registrations, ledger heads and times that the statements name against each other.

    Args:
        pairs: the valid statements, by the digest of the weights they are about.

    Raises:
        KeyError, TypeError, ValueError: a statement lacks what this version expects.
    """
    records = [deletion_record_of(pair) for pair in pairs.values() if "operator" in pair]
    if any(other != records[0] for other in records[1:]):
        yield Finding("deletion record", False, "the operator's statements about several models carry different deletion records")
    record = records[0] if records else {}
    if record:
        yield from _head(record)
    named = {weights: _registered(pair) for weights, pair in pairs.items() if "auditor" in pair}
    for weights, registered in named.items():
        yield from _times(weights, registered, pairs[weights], record)
    digests = {registered.digest for registered in named.values() if registered is not None}
    stated = record.get("registration")
    # The operator reports the first model's; where that model was executed again instead, there is no audit to compare with.
    if record and len(named) == len(pairs) and (stated not in digests if digests else stated is not None):
        audits = ", ".join(sorted(digest[:16] for digest in digests)) or "none"
        yield Finding(WHAT, False, f"the operator reports {str(stated)[:16]}, the audits followed {audits}")


def _head(record: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the form of the ledger's head: anything else than a digest can be in no chain."""
    if not HEAD.fullmatch(str(record["ledger_head"])):
        yield Finding("head of the request ledger", False, "the operator's statement names none: it is not a SHA-256 digest")


def _registered(pair: Pair) -> Registered | None:
    found = evidence_of(pair["auditor"]).get("registration")
    return None if found is None else Registered.model_validate_json(json.dumps(found))


def _times(weights: str, registered: Registered | None, pair: Pair, record: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that an audit was registered before it was made and before the unlearning began.

    A tolerance allows for the clocks of several hosts.

    Where the ledger is at hand, its chain and not a clock shows that the registration came before the unlearning.
    """
    evidence = evidence_of(pair["auditor"])
    what = f"{WHAT} of the audit of {weights[:16]}"
    if registered is None:
        yield Finding(what, True, "none: nothing shows that records, tests and thresholds were chosen beforehand")
        return
    created, audited = moment_of(registered.created), moment_of(evidence["created"])
    began = _unlearned(record)
    if created is None:
        yield Finding(what, False, "it bears no date")
    elif audited is not None and created - audited > CLOCKS:
        yield Finding(what, False, f"it is of {registered.created}, after the audit, which is of {evidence['created']}")
    elif began is not None and created - began > CLOCKS:
        yield Finding(what, False, f"it is of {registered.created}, after the unlearning began, on {began.isoformat()}")
    else:
        after = " and before the unlearning" if began is not None else ""
        late = max(created - other for other in (audited, began, created) if other is not None)
        order = f"before the audit{after}, by the signers' clocks"
        if late:
            order = f"{ceil(late / MINUTE)} minutes after what it came before, by clocks of the signers, which may lie 60 apart"
        yield Finding(what, True, f"{registered.digest[:16]}, of {registered.created}: {order}")


def _unlearned(record: Mapping[str, Any]) -> datetime | None:
    """Return when the unlearning last began: an earlier plan that came to nothing had a registration of its own."""
    events = [event for request in record.get("requests", ()) for event in request["events"] if event["state"] == "unlearning"]
    moments = [moment for event in events if (moment := moment_of(event["at"])) is not None]
    return max(moments, default=None)
