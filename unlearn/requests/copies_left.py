"""Copies of deleted data that stay after a cleanup, and the operator's reasons for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn.requests.ownership import noted_owners
from verify.errors import InputError

HASHED = "keyed hash"
"""Prefix of a path whose name might identify a person; a keyed hash follows it."""
IN_FILE = "still in the training file, whose rows are removed before the request is closed"
IN_SERVICE = "in service until the new weights replace it; then retire it with `close --retired`"


@dataclass(frozen=True)
class Left:
    """Result of a cleanup.

    Attributes:
        residual: "place" (path), "kind" and "reason" of each copy that stays, "why" it could not be removed, and "requests", the
            ids of those whose data it holds, where that is known of a batch of several. A copy without a reason must be removed,
            or explained by the operator.
        removed: number of removed residues by kind.
        shown: real paths by the names in `residual`, for the operator only: ledger and record contain keyed hashes.
        removed_for: the same number for each request of a batch of several, of the residues that are known to have held its data.
    """

    residual: tuple[Mapping[str, Any], ...]
    removed: Mapping[str, int]
    shown: Mapping[str, str] = field(default_factory=dict, repr=False)
    removed_for: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def unexplained(self) -> tuple[Mapping[str, Any], ...]:
        """Return the copies that stay without a reason, with their real paths."""
        return tuple({**copy, "place": self.shown.get(copy["place"], copy["place"])} for copy in unexplained_of(self.residual))


def unexplained_of(copies: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return the copies that the operator has given no reason for."""
    return tuple(copy for copy in copies if not copy["reason"].strip())


def reasons_of(copies: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the reasons that the operator gave for copies, by path as listed."""
    return {copy["place"]: copy["reason"] for copy in copies if copy["reason"] not in (IN_SERVICE, IN_FILE)}


def carried_over(earlier: Sequence[Mapping[str, Any]], left: Left, roots: Sequence[str]) -> Left:
    """Add copies that an earlier search found and the operator explained; without the texts, no search finds them again.

    Nor can it tell whose data the copies hold that it does find: that is taken from the earlier one as well.
    """
    whose = {(copy["place"], copy["kind"]): copy["requests"] for copy in earlier if "requests" in copy}
    found = [_with_owners(copy, whose, left.shown) for copy in left.residual]
    now = {(name, copy["kind"]) for copy in left.residual for name in (copy["place"], left.shown.get(copy["place"]))}
    again = [copy for copy in earlier if copy["reason"] not in (IN_SERVICE, IN_FILE) and (copy["place"], copy["kind"]) not in now]
    there = [
        copy for copy in again if copy["place"].startswith(HASHED) or any((Path(root) / copy["place"]).exists() for root in roots)
    ]
    return replace(left, residual=(*found, *there))


def _with_owners(
    copy: Mapping[str, Any], whose: Mapping[tuple[str, str], Sequence[str]], shown: Mapping[str, str]
) -> dict[str, Any]:
    """Return an entry with the requests whose data it holds, where only an earlier search could tell."""
    names = (copy["place"], shown.get(copy["place"], copy["place"]))
    earlier = next((whose[name, copy["kind"]] for name in names if (name, copy["kind"]) in whose), None)
    return {**noted_owners(None if earlier is None else tuple(earlier)), **copy}


def read_reasons(content: Any) -> dict[str, str]:
    """Check and return the operator's reasons: a JSON object from path to reason.

    Raises:
        InputError: it is not such an object, or a reason is empty.
    """
    if not isinstance(content, dict) or not all(isinstance(text, str) and text.strip() for text in content.values()):
        raise InputError('reasons must be a JSON object such as {"backup.jsonl": "expires on 1 May"}, none of them empty.')
    return dict(content)
