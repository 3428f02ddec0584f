"""Sets of records: selection by identifiers, and what sets of different roles may not share."""

from collections.abc import Mapping, Sequence
from typing import Any

from verify.data.canonical import canonical
from verify.data.likeness import as_read
from verify.data.records import Record
from verify.errors import InputError


def canonical_names(record: Record) -> frozenset[str]:
    """Return the canonical identifiers by which a list may name a record: its own and those of its subjects."""
    return frozenset(map(canonical, (record.example_id, *record.subjects)))


def select(training: Sequence[Record], identifiers: Sequence[str], source: str) -> list[Record]:
    """Select the training records named by a list of example or subject ids, in training order.

    Identifiers are compared in their canonical form (`verify.data.canonical`), so that any spelling that a standard defines as
    equal names the record.

    Args:
        training: the training records.
        identifiers: example or subject ids.
        source: the list's name in error messages.

    Raises:
        InputError: the list is empty, or an entry names no training record (the message gives the entries' positions).
    """
    forms = [canonical(identifier) for identifier in identifiers]
    wanted = {form: position for position, form in enumerate(forms, 1) if form}
    if not wanted:
        raise InputError(f"{source} names no records. Give at least one example id or subject id.")
    chosen = [record for record in training if not wanted.keys().isdisjoint(canonical_names(record))]
    matched = {name for record in chosen for name in canonical_names(record)}
    missing = [position for name, position in wanted.items() if name not in matched]
    if missing:
        raise InputError(
            f"{source}: {len(missing)} of {len(wanted)} identifiers (entries {_first(missing)}) occur nowhere in the "
            "training data, neither as example id nor as subject id. Correct the list, or give the file that was trained on."
        )
    return chosen


def require_trained(records: Sequence[Record], training: Sequence[Record], source: str) -> None:
    """Require that every record's content is among the training records.

    Raises:
        InputError: one is not; the message gives the rows.
    """
    known = {record.fingerprint for record in training}
    missing = [number for number, record in enumerate(records, 1) if record.fingerprint not in known]
    if missing:
        raise InputError(
            f"{source}: {len(missing)} of {len(records)} records (rows {_first(missing)}) were never in the training data, "
            "so they cannot be forgotten. Remove them, or give the file that was trained on."
        )


def require_disjoint(roles: Mapping[Any, Sequence[Record]]) -> None:
    """Require that no two roles share a record, by content or by an identifier from the source.

    Raises:
        InputError: two do; the message gives the rows.
    """
    names = list(roles)
    for index, first in enumerate(names):
        contents = {record.fingerprint for record in roles[first]}
        identifiers = {record.example_id for record in roles[first] if record.named}
        for second in names[index + 1 :]:
            shared = [
                number
                for number, record in enumerate(roles[second], 1)
                if record.fingerprint in contents or (record.named and record.example_id in identifiers)
            ]
            if shared:
                raise InputError(
                    f"the {first} set and the {second} set share {len(shared)} records (rows {_first(shared)} of the "
                    f"{second} set). A record has one role: remove them from one of the two files."
                )


def require_unseen(controls: Mapping[Any, Sequence[Record]], seen: Mapping[Any, Sequence[Record]]) -> None:
    """Require that no control reads like a record that a model was trained on: by fingerprint the two would differ.

    Args:
        controls: never-trained records by role.
        seen: trained records by role.

    Raises:
        InputError: one does; the message gives the rows.
    """
    if not any(controls.values()):
        return
    known: dict[str, Any] = {}
    for role, records in seen.items():
        for record in records:
            known.setdefault(as_read(record.whole_text), role)
    for role, records in controls.items():
        forms = (as_read(record.whole_text) for record in records)
        alike = {number: known[form] for number, form in enumerate(forms, 1) if form and form in known}
        if alike:
            others = " and ".join(sorted({f"the {name} set" for name in alike.values()}))
            raise InputError(
                f"{len(alike)} of the {len(records)} {role} records (rows {_first(list(alike))}) read like records of {others}: "
                "they differ only by case, white space, or invisible or look-alike characters. A model that was trained on one "
                f"knows the other, so that it is no never-trained record. Remove them from the {role} set."
            )


def _first(numbers: Sequence[int], limit: int = 5) -> str:
    shown = ", ".join(str(number) for number in numbers[:limit])
    return shown + (", ..." if len(numbers) > limit else "")
