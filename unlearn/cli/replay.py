"""Command `unlearn replay-suppression`: undo what a restored backup brought back."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unlearn.cli.ledger import NOTHING_FOUND, LedgerFlags
from verify.cli.flags import FieldFlags

if TYPE_CHECKING:
    from unlearn.requests.replay import Returned


@dataclasses.dataclass(frozen=True)
class ReplaySuppression:
    """Find what a restored backup brought back of everything that was deleted, and remove it again.

    The suppression list is first completed from the ledger, as the backup may hold an older one. Rows are recognized by keyed
    hashes, in tables with other columns by all their values; other files are then searched for the texts of these rows, and models
    by their training logs. Exit status 0: nothing that can be recognized is left; 3: something is, a row resembles a suppressed
    person, or a table cannot be read to its end, which is named.
    """

    search: tuple[Path, ...]
    """The restored folders; nothing outside them is changed, and symbolic links are not followed."""
    suppression: Path = Path("deletions/suppressed.jsonl")
    """The suppression list; created if missing."""
    remove: bool = False
    """Remove what may be removed, rewriting training data without the rows, instead of only listing it."""
    spare: tuple[Path, ...] = ()
    """Folders and files that must not be changed: the model in service, the ledger, the key."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Complete the list, print what came back, and remove it if asked to; exit status 3 if anything is left."""
        from unlearn.cli.purge import show_residues
        from unlearn.purge.find import find_residues, remove
        from unlearn.purge.suppression import extended
        from unlearn.requests.ledger.search_tokens import advice
        from unlearn.requests.replay import complete, find_returned
        from verify.data.identity import RecordKey

        with self.ledger.open() as ledger, extended(self.suppression) as listed:
            key = RecordKey.load()
            listed.require(key)
            requests = complete(listed, ledger, key)
            if (said := advice([one for one in ledger.requests() if one.latest("deployed") is not None])) is not None:
                print(f"NOTE: {said}", file=sys.stderr)  # noqa: T201
            kept = [self.suppression, *([] if ledger.file is None else [ledger.file])]
        records = len(listed.records) + len(listed.bare)
        print(f"{requests} deletions in the ledger; {records} records and {len(listed.subjects)} people are on the list")  # noqa: T201
        back = find_returned(self.search, listed, key, self.columns.fields())
        self._show(back)
        found = find_residues(
            self.search,
            records=back.records,
            key=key,
            affected=back.models,
            spare=[*self.spare, *kept, RecordKey.default_path()],
            rewrite_data=True,
        )
        left = remove(found) if self.remove else found
        show_residues(found, left, self.search)
        # A row whose text is too short to be searched for is recognized, but not removed.
        after = find_returned(self.search, listed, key, self.columns.fields()) if self.remove and back.hits else back
        if self.remove and (count := after.certain):
            left_rows = "1 row is" if count == 1 else f"{count} rows are"
            print(f"{left_rows} still there, to be removed by hand from the files named above")  # noqa: T201
        return NOTHING_FOUND if left or after.hits or after.failed else 0

    def _show(self, back: "Returned") -> None:
        tops = [folder.resolve() for folder in self.search]
        for path, hits in back.hits.items():
            kinds = {how: sum(hit.how == how for hit in hits) for how in dict.fromkeys(hit.how for hit in hits)}
            counted = ", ".join(f"{count} {how}" for how, count in kinds.items())
            many = f"{len(hits)} {'row' if len(hits) == 1 else 'rows'}"
            print(f"came back: {_shown(path, tops)}: {many} ({counted})")  # noqa: T201
        for path, reason in back.failed.items():
            why = reason.replace(str(path), "the table")
            print(f"not read to its end: {_shown(path, tops)}: {ascii(why)[1:-1]}")  # noqa: T201
        if back.unread:
            searched = (
                "searched only for the texts of these rows" if back.records else "not searched: no text of a deleted row came back"
            )
            print(f"{len(back.unread)} files are not tables of records, {searched}")  # noqa: T201


def _shown(path: Path, tops: Sequence[Path]) -> str:
    """Return a path below one of the folders; control characters in a file name must not reach the terminal."""
    top = next(top for top in tops if path.is_relative_to(top))
    return ascii(str(path.relative_to(top)))[1:-1]
