"""Search tokens of requests that earlier versions recorded, made again from identifiers, of which the ledger has none.

A request is found by the hashes of its identifiers, as ever. Similar spellings and mentions in texts are found by tokens, of which
later versions make more; what an earlier one recorded cannot be completed without the identifiers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.scan.spellings import TOKENS_FORM, likenesses
from verify.data.canonical import canonical
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.schema.deletion_record import TOKENS

_MADE_OF = "names in texts where only a mail address made of the name was given"
LACKING = {
    1: f"names in another order or with initials, scripts without spaces, numbers in another grouping, and {_MADE_OF}",
    2: _MADE_OF,
}
"""What the tokens of earlier versions do not find, by their version."""


def record_again(ledger: Ledger, request: str, identifiers: Sequence[str], key: RecordKey) -> Request:
    """Record the tokens of a request again; only their keyed hashes are stored. Idempotent.

    Args:
        ledger: the request ledger.
        request: its id.
        identifiers: the person's identifiers, which must be exactly those with which it was recorded.
        key: the ledger's record key.

    Raises:
        InputError: the request is unknown, or these are not its identifiers; then nothing is recorded.
    """

    def details_of(found: Request) -> Mapping[str, Any] | None:
        _require_same(found, identifiers, key)
        if not found.lacks_tokens:
            return None
        return {"likenesses": likenesses(identifiers, key), "tokens_form": TOKENS_FORM}

    return ledger.note(request, TOKENS, details_of)


def _require_same(request: Request, identifiers: Sequence[str], key: RecordKey) -> None:
    """Check that identifiers are those of a request: tokens of another person would propose that person's rows."""
    given = [{*key.names_of_form(form, one)} for one in identifiers if (form := canonical(one))]
    own = set(request.subjects)
    others, missing = sum(own.isdisjoint(names) for names in given), len(own.difference(*given))
    if others or missing:
        raise InputError(
            f"these are not the identifiers of {request.id}: {others} of those given are not among its {len(own)}, and {missing} "
            "of its own are missing. Give exactly those that it was recorded with; further ones belong into a request of their own "
            "(`unlearn request add`)."
        )


def advice(requests: Sequence[Request]) -> str | None:
    """Say which requests have tokens of an earlier version, what these do not find, and what to do; None without any."""
    lacking = {request.id: request.tokens_form for request in requests if request.lacks_tokens}
    if not lacking:
        return None
    unfound = LACKING[min(lacking.values())]
    return (
        f"{', '.join(lacking)}: recorded by an earlier version, whose search does not find {unfound}. Record "
        f"what is searched for again: unlearn request reindex {next(iter(lacking))} --identifiers FILE"
    )
