"""Checks of the records behind a schedule: each was shown, none is a forget record, and none is nearly one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from verify.data.identity import RecordKey
from verify.data.near_duplicates import near_texts
from verify.data.records import Record
from verify.schema.reexecution import Finding, Likeness


@dataclass(frozen=True, eq=False, repr=False)
class Shown:
    """The records that an auditor was shown, by keyed hashes computed from their texts.

    Attributes:
        training: the training records that stay.
        forget: the forget records.
        key: the record key.
    """

    training: Sequence[Record]
    forget: Sequence[Record]
    key: RecordKey

    @property
    def forget_names(self) -> frozenset[str]:
        """Keyed hashes of the forget records."""
        return frozenset(self.key.of(record.fingerprint) for record in self.forget)

    def findings(self, used: frozenset[str]) -> Iterator[Finding]:
        """Check the records that a schedule uses.

        Args:
            used: their keyed hashes, by the log.
        """
        if there := len(used & self.forget_names):
            yield Finding(kind="forget record", what=f"{there} of the forget records stand in the deletion's schedule.")
        unknown = used - self.forget_names - {self.key.of(record.fingerprint) for record in self.training}
        if unknown:
            yield Finding(
                kind="records",
                what=(
                    f"{len(unknown)} of {len(used)} records of the schedule were not shown: no text that was given has their hash. "
                    "Give the whole training file with --data, and the key file of the training."
                ),
            )

    def near(self, used: frozenset[str]) -> tuple[Likeness, ...]:
        """Find training records in use whose text is nearly that of a forget record, most similar first."""
        known = {self.key.of(record.fingerprint): record.whole_text for record in self.forget}
        training = {self.key.of(record.fingerprint): record.whole_text for record in self.training}
        others = ((name, text) for name, text in training.items() if name in used and name not in known)
        found = [
            Likeness(record=name, forget=next(iter(near)), similarity=next(iter(near.values())))
            for name, near in near_texts(known, others, self.key.secret)
        ]
        return tuple(sorted(found, key=lambda one: (-one.similarity, one.record)))
