"""Commands around the deletion itself: purge what is left of it, serve requests over HTTP."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from verify.cli_flags import FieldFlags

if TYPE_CHECKING:
    from unlearn.requests.residues import Residue

RESIDUAL = 3
"""Exit status where copies remain."""


@dataclasses.dataclass(frozen=True)
class Purge:
    """Find what is left of deleted records, remove what may be removed, list the rest with reasons.

    Files are searched for the deleted texts, models and checkpoints by what they were trained on. The list shows no text, but it
    shows file names, which are yours: a file that is named after a person is listed so. Exit status 0: nothing is left;
    3: copies remain. A record that is too short to be searched for is counted, and a file that cannot be read is listed.
    """

    data: str
    """The training file that the deleted records were in."""
    forget: str
    """The deleted records: a file of them, or a list of example or subject ids."""
    search: tuple[Path, ...]
    """Folders to search; nothing outside of them is touched, and symbolic links are not followed."""
    models: tuple[Path, ...] = ()
    """Folders to search for models that saw the records; those that lie outside of --search are listed only."""
    spare: tuple[Path, ...] = ()
    """Folders and files that must stay: the model in service, the ledger, the key."""
    dry_run: bool = False
    """Only list; change nothing."""
    rewrite_data: bool = False
    """Write training data anew without the records."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print the list; exit status 3 where copies remain."""
        from unlearn.requests.content_search import ContentSearch
        from unlearn.requests.lineage import affected_models
        from unlearn.requests.purging import find_residues, remove
        from verify.identity import RecordKey
        from verify.sources import load_forget_set, load_records

        training = load_records(self.data, self.columns.fields())
        records = load_forget_set(self.forget, training, self.columns.fields())
        deleted = {record.fingerprint for record in records}
        retained = [record for record in training if record.fingerprint not in deleted]
        key = RecordKey.load()
        found = find_residues(
            self.search,
            records=records,
            key=key,
            affected=affected_models(self.models, {key.of(record.fingerprint) for record in records}) if self.models else [],
            spare=[*self.spare, RecordKey.default_path()],
            retained=retained,
            rewrite_data=self.rewrite_data,
        )
        left = found if self.dry_run else remove(found)
        self._show(found, left)
        if unsearched := ContentSearch(records, retained).too_short:
            print(f"{unsearched} records are too short to be searched for by content")  # noqa: T201
        return RESIDUAL if left else 0

    def _show(self, found: "list[Residue]", left: "list[Residue]") -> None:
        reasons = {residue.place: residue.reason for residue in left}
        tops = [folder.resolve() for folder in self.search]
        for residue in found:
            top = next((top for top in tops if residue.place.is_relative_to(top)), None)
            # Control characters in a file name must not reach the terminal.
            shown = ascii(str(residue.place.relative_to(top) if top is not None else residue.place))[1:-1]
            outcome = (reasons[residue.place] or "can be removed") if residue.place in reasons else "removed"
            print(f"{residue.kind:18}  {shown}  ({residue.how}): {outcome}")  # noqa: T201
        removable = sum(residue.removable for residue in left)
        removed = len(found) - len(left)
        print(f"{len(found)} found, {removed} removed, {removable} can be removed, {len(left) - removable} stay")  # noqa: T201
