"""Commands about single records: scan for them, suppress them, check a data set for them."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from verify.cli.flags import FieldFlags


@dataclasses.dataclass(frozen=True)
class Scan:
    """Find the training records that a request means, and the models that saw them; prints rows and hashes, never texts.

    Identifiers and texts come from files or, by the name "-", from standard input: arguments are kept in shell histories.
    """

    data: tuple[str, ...]
    """Training files."""
    subjects: str | None = None
    """File with subject identifiers, one a line."""
    ids: str | None = None
    """File with record identifiers, one a line."""
    texts: str | None = None
    """File with texts or passages, one a line."""
    models: tuple[str, ...] = ()
    """Folders to search for models that were trained on what is found, or made from such models."""
    near: bool = True
    """Look for near-duplicates of what is found; a human confirms them."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print what was found; exit status 3 where nothing was."""
        from unlearn.scan.lineage import affected_models
        from unlearn.scan.search import find_records
        from verify.data.identity import RecordKey
        from verify.errors import InputError

        given = {name: lines_of(getattr(self, name)) for name in ("subjects", "ids", "texts")}
        if not any(given.values()):
            raise InputError("nothing to look for. Name a file with --subjects, --ids or --texts; - reads standard input.")
        key = RecordKey.load()
        found = find_records(
            self.data,
            key,
            subjects=[key.of(subject, "subject") for subject in given["subjects"]],
            record_ids=given["ids"],
            texts=given["texts"],
            fields=self.columns.fields(),
            near=self.near,
        )
        for match in found:
            likeness = f"  similarity {match.similarity:.2f}" if match.how == "near duplicate" else ""
            print(f"{match.file}:{match.row}  {match.record[:16]}  {match.how}{likeness}")  # noqa: T201
        certain = {match.record for match in found if match.how != "near duplicate"}
        print(f"{len(certain)} records; {sum(match.how == 'near duplicate' for match in found)} near-duplicates to confirm")  # noqa: T201
        for model in affected_models(self.models, certain) if self.models else []:
            clean = f"; last clean checkpoint {model.last_clean_checkpoint}" if model.last_clean_checkpoint else ""
            seen = f"{model.records} records, first at step {model.first_step}{clean}" if model.records else "by descent"
            print(f"{model.folder}  {model.weights[:16]}  {model.how}: {seen}")  # noqa: T201
        return 0 if found else 3


def lines_of(source: str | None) -> list[str]:
    """The lines of a file, or of standard input for "-", without empty ones.

    Raises:
        InputError: the file cannot be read.
    """
    from verify.errors import InputError

    if source is None:
        return []
    try:
        # A byte order mark, which other programs put in front, would make another identifier of the first one.
        text = sys.stdin.read().removeprefix("\ufeff") if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{source} cannot be read as a text file in UTF-8. Name a file with one entry a line.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


@dataclasses.dataclass(frozen=True)
class CheckDataset:
    """Is anything in a data set that was deleted before? Exit status 3 where something is."""

    data: Annotated[str, tyro.conf.Positional]
    """The data set that is to be trained on."""
    suppression: Path
    """The suppression list."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print the rows that must not be trained on."""
        from unlearn.purge.suppression import SuppressionList
        from verify.data.identity import RecordKey

        hits = list(SuppressionList.load(self.suppression).check(self.data, RecordKey.load(), self.columns.fields()))
        for hit in hits:
            print(f"row {hit.row}: {hit.how}" + (f" (similarity {hit.similarity:.2f})" if hit.similarity < 1 else ""))  # noqa: T201
        print(f"{len(hits)} rows must not be trained on" if hits else "nothing in it was deleted before")  # noqa: T201
        return 3 if hits else 0


@dataclasses.dataclass(frozen=True)
class Suppress:
    """Put deleted records, and with them the people they are about, on the suppression list."""

    records: Annotated[str, tyro.conf.Positional]
    """The deleted records: a file."""
    suppression: Path
    """The suppression list; made where there is none."""
    whole_subjects: bool = True
    """Whether everything of these people is to stay out, or only these records and their likes."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Add and save."""
        from unlearn.purge.suppression import extended
        from verify.data.identity import RecordKey
        from verify.data.sources import load_records

        records, key = load_records(self.records, self.columns.fields()), RecordKey.load()
        with extended(self.suppression) as found:
            found.add(records, key, self.whole_subjects)
        print(f"{len(found.records)} records and {len(found.subjects)} people are on {self.suppression}")  # noqa: T201
        return 0
