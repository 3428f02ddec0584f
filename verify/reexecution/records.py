"""Checks of the records behind a schedule: each was shown, none is a forget record, and none is nearly one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from verify.data.identity import RecordKey
from verify.data.near_duplicates import NearDuplicates, Signature, shingles, signature
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
        known: dict[str, Signature] = {}
        parts: dict[str, set[bytes]] = {}
        for record in self.forget:
            name = self.key.of(record.fingerprint)
            parts[name] = shingles(record.whole_text, self.key.secret)
            known[name] = signature(parts[name])
        index, found = NearDuplicates(known, parts), {}
        for record in self.training:
            name = self.key.of(record.fingerprint)
            if name in used and name not in known and (hit := index.find(shingles(record.whole_text, self.key.secret))) is not None:
                found[name] = Likeness(record=name, forget=hit[0], similarity=hit[1])
        return tuple(sorted(found.values(), key=lambda one: (-one.similarity, one.record)))
