"""Groups of records that share people, for everything that must not separate a person's records.

A record about two people belongs to both: it connects all records of the one with all of the other. So the groups are the
connected components of the graph in which records are joined by a common subject.
"""

from collections.abc import Callable, Sequence

from verify.records import Record


def people_of(records: Sequence[Record], alone: Callable[[Record], str] = lambda record: record.fingerprint) -> list[str]:
    """The group of each record, by the name of a person in it.

    Args:
        records: in any order; the result does not depend on it.
        alone: names the group of a record that has no subject.

    Returns:
        One name per record [N]: a record's subject, or the first in the alphabet of all subjects it is connected with.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = name = above[above[name]]
        return name

    for record in records:
        for other in record.subjects[1:]:
            first, second = sorted((top(record.subjects[0]), top(other)))
            above[second] = first
    return [top(record.subjects[0]) if record.subjects else alone(record) for record in records]
