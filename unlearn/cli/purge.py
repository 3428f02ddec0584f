"""Command `unlearn purge`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from verify.cli.flags import FieldFlags

if TYPE_CHECKING:
    from unlearn.purge.residue import Residue
    from verify.data.identity import RecordKey

RESIDUAL = 3
"""Exit status if copies remain."""


@dataclasses.dataclass(frozen=True)
class Purge:
    """Find copies of deleted records in files and models, remove what may be removed, and list the rest with reasons.

    Files are searched for the deleted texts; models and checkpoints are found by their training data. The list contains no texts,
    but it does contain file names, even of files named after a person. Exit status 0: nothing is left; 3: copies remain, or it is
    not known of a model whether it saw the records. Records that are too short to search for are counted, and files that cannot be
    read are listed.
    """

    data: str
    """The training file that contained the deleted records."""
    forget: str
    """The deleted records: a file of records, or a list of example or subject ids."""
    search: tuple[Path, ...]
    """Folders to search; nothing outside them is changed, and symbolic links are not followed."""
    databases: tuple[str, ...] = ()
    """PostgreSQL databases whose tables with vectors (pgvector) are searched as well, where the texts stand beside the vectors:
    postgresql://user@host/database, with the password in ~/.pgpass."""
    models: tuple[Path, ...] = ()
    """Folders to search for models that saw the records; those outside --search are only listed, and so are models of which it is
    not known whether they saw them."""
    spare: tuple[Path, ...] = ()
    """Folders and files that must not be changed: the model in service, the ledger, the key."""
    dry_run: bool = False
    """Only list, and change nothing."""
    rewrite_data: bool = False
    """Rewrite training data without the records."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print the list; exit status 3 if copies remain."""
        from unlearn.purge.content_search import ContentSearch
        from unlearn.purge.find import find_residues, remove
        from unlearn.purge.pgvector import find_rows, remove_rows
        from unlearn.scan.lineage import affected_models, hashes_of_record
        from verify.data.identity import RecordKey
        from verify.data.sources import find_forget_set, stream_records

        fields, new_key = self.columns.fields(), not RecordKey.default_path().exists()
        key = RecordKey.load()
        records = find_forget_set(self.forget, self.data, fields)
        deleted = {record.fingerprint for record in records}
        staying = (record for record in stream_records(self.data, fields) if record.fingerprint not in deleted)
        search = ContentSearch(records, staying)
        names = {name for record in records for name in hashes_of_record(record, key)}
        affected = affected_models(self.models, names) if self.models else []
        unknown = self._unknown(key, names, {model.folder for model in affected}, new_key) if self.models else []
        found = find_residues(
            self.search,
            records=records,
            key=key,
            affected=affected,
            spare=[*self.spare, RecordKey.default_path()],
            rewrite_data=self.rewrite_data,
            search=search,
        )
        in_databases = find_rows(self.databases, search)
        left = [*found, *in_databases] if self.dry_run else [*remove(found), *remove_rows(in_databases)]
        show_residues([*found, *in_databases, *unknown], [*left, *unknown], self.search)
        if search.unsearched:
            print(f"{search.unsearched} records were not searched for: too short, or identical to text of records that stay")  # noqa: T201
        return RESIDUAL if left or unknown else 0

    def _unknown(self, key: "RecordKey", names: set[str], affected: set[Path], new_key: bool) -> "list[Residue]":
        """Return the models of which it is not known whether they saw the records, as residues that stay."""
        from unlearn.purge.residue import Residue
        from unlearn.scan.lineage import hashes_of_records
        from unlearn.scan.unknown import unknown_models

        known = names | hashes_of_records([self.data], key, self.columns.fields())
        models = unknown_models(self.models, known, key, affected=affected, new_key=new_key)
        return [Residue(one.folder.resolve(), "model", "whether it saw them is not known", False, one.why) for one in models]


def show_residues(found: "Sequence[Residue]", left: "Sequence[Residue]", folders: Sequence[Path]) -> None:
    """Print every residue with its outcome, by its path below the searched folders, and the counts."""
    reasons = {residue.place: residue.reason for residue in left}
    tops = [folder.resolve() for folder in folders]
    for residue in found:
        top = next((top for top in tops if residue.place.is_relative_to(top)), None)
        # Control characters in a file name must not reach the terminal.
        shown = ascii(str(residue.place.relative_to(top) if top is not None else residue.place))[1:-1]
        outcome = (reasons[residue.place] or "can be removed") if residue.place in reasons else "removed"
        print(f"{residue.kind:18}  {shown}  ({residue.how}): {outcome}")  # noqa: T201
    removable = sum(residue.removable for residue in left)
    removed = len(found) - len(left)
    print(f"{len(found)} found, {removed} removed, {removable} can be removed, {len(left) - removable} stay")  # noqa: T201
