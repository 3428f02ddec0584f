"""Groups of records that share subjects, for code that must not separate a person's records.

A record about two persons connects all records of the one with all records of the other. The groups are therefore the connected
components of the graph in which records are joined by a common subject, in any spelling that a standard defines as equal.
"""

from collections.abc import Callable, Sequence

from verify.data.canonical import canonical
from verify.data.records import Record


def subject_groups(records: Sequence[Record], alone: Callable[[Record], str] = lambda record: record.fingerprint) -> list[str]:
    """Return the group of each record, named after one of its subjects.

    Args:
        records: in any order; the result does not depend on it.
        alone: names the group of a record that has no subject.

    Returns:
        one name per record [N]: the first in the alphabet of all subjects that the record is connected with, as spelled.
    """
    # Union-find with path halving; the root of a group is its first name in the alphabet.
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    def join(one: str, other: str) -> None:
        first, second = sorted((root(one), root(other)))
        parent[second] = first

    spelled: dict[str, str] = {}
    for name in {name for record in records for name in record.subjects}:
        join(name, spelled.setdefault(canonical(name) or name, name))
    for record in records:
        for other in record.subjects[1:]:
            join(record.subjects[0], other)
    return [root(record.subjects[0]) if record.subjects else alone(record) for record in records]
