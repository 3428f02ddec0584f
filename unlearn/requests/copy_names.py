"""Names of copies for ledger and report: a keyed hash stands for a path that might identify a person."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.purge.residue import TRAINING_FILE, Residue
from unlearn.requests.copies_left import HASHED
from unlearn.requests.ownership import Owners, Ownership, noted_owners
from verify.data.identity import RecordKey, plainly, telling_parts
from verify.data.records import Record

REWRITING = "can be rewritten without them with --remove --rewrite-data"


class Naming:
    """Names of copies for ledger and report: a keyed hash for a path that might identify a person."""

    def __init__(
        self, roots: Sequence[Path], records: Sequence[Record], key: RecordKey, reasons: Mapping[str, str], owned: Ownership
    ) -> None:
        self.roots, self.key, self.reasons, self.owned = [root.resolve() for root in roots], key, reasons, owned
        texts = (text for record in records for text in (*record.subjects, record.example_id if record.named else None))
        self.identifying = {part for text in set(texts) if text is not None for part in telling_parts(text)}
        self.shown: dict[str, str] = {}

    def copy(self, place: Path, kind: str, reason: str, why: str = "", owners: Owners = None) -> dict[str, Any]:
        """Describe one copy; `why` it could not be removed is shown to the operator, but does not justify that it stays."""
        inside = next((place.relative_to(root) for root in self.roots if place.is_relative_to(root)), None)
        clear = place.name if inside is None or not inside.parts else inside.as_posix()
        # Once the records are gone, their identifiers are unknown: then any path might contain one.
        hide = not self.identifying or any(part in plainly(clear) for part in self.identifying)
        name = f"{HASHED} {self.key.of(clear, 'place')}" if hide else clear
        self.shown[name] = clear
        given = next((self.reasons[called] for called in (name, *_and_above(clear)) if called in self.reasons), reason)
        return {"place": name, "kind": kind, "reason": given, "why": why, **noted_owners(owners)}

    def data(
        self, rows: Mapping[str, Sequence[str]], reason: str, failed: Mapping[Path, str] | None = None
    ) -> list[dict[str, Any]]:
        """Describe training files that still contain deleted rows; `failed` says why they could not be rewritten."""
        why = {Path(file).resolve(): REWRITING for file in rows} | {place: text for place, text in (failed or {}).items() if text}
        found = {Path(file).resolve(): names for file, names in rows.items()}
        return [
            self.copy(
                place,
                f"{TRAINING_FILE}, {len(names)} {'row' if len(names) == 1 else 'rows'}",
                reason,
                why[place],
                self.owned.of_records(names),
            )
            for place, names in found.items()
        ]

    def residue(self, residue: Residue, held: str = "") -> dict[str, Any]:
        """Describe a residue that was not removed; `held` says why a removable one was not."""
        return self.copy(residue.place, residue.kind, "", residue.reason or held, self.owned.of(residue))


def _and_above(name: str) -> Iterator[str]:
    """Yield a relative path and its parent folders."""
    yield name
    yield from (parent.as_posix() for parent in Path(name).parents if parent.parts)
