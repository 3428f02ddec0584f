"""Groups of records that share subjects, for code that must not separate a person's records.

A record about two persons connects all records of the one with all records of the other. The groups are therefore the connected
components of the graph in which records are joined by a common subject, in any spelling that a standard defines as equal.
"""

from collections.abc import Callable, Sequence

from verify.data.canonical import canonical
from verify.data.records import Record


class MergedNames:
    """Names that are merged into groups, each named after its first in the alphabet: union-find with path halving."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def group(self, name: str) -> str:
        """Return the group of a name: the name itself, where it was merged with none before it."""
        above = self._above
        while (higher := above.get(name, name)) != name:
            above[name] = name = above.get(higher, higher)
        return name

    def join(self, one: str, other: str) -> None:
        """Merge the groups of two names."""
        first, second = sorted((self.group(one), self.group(other)))
        if first != second:
            self._above[second] = first


def subject_groups(records: Sequence[Record], alone: Callable[[Record], str] = lambda record: record.fingerprint) -> list[str]:
    """Return the group of each record, named after one of its subjects.

    Args:
        records: in any order; the result does not depend on it.
        alone: names the group of a record that has no subject.

    Returns:
        one name per record [N]: the first in the alphabet of all subjects that the record is connected with, as spelled.
    """
    merged = MergedNames()
    spelled: dict[str, str] = {}
    for name in {name for record in records for name in record.subjects}:
        merged.join(name, spelled.setdefault(canonical(name) or name, name))
    for record in records:
        for other in record.subjects[1:]:
            merged.join(record.subjects[0], other)
    return [merged.group(record.subjects[0]) if record.subjects else alone(record) for record in records]
