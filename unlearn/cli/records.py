"""Commands about records: scan for them, suppress them, check a data set for suppressed ones."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from verify.cli.console import progress_bar
from verify.cli.flags import FieldFlags

if TYPE_CHECKING:
    from verify.data.identity import RecordKey


@dataclasses.dataclass(frozen=True)
class Scan:
    """Find a person's training records and the models that saw them; prints rows and hashes, never texts.

    Spellings of an identifier that are equivalent by standard are matched: case of a mail address, either form of an international
    domain, canonically equal Unicode, white space, international telephone numbers. Rows that may be about the same person
    (accents, case of names, +tags, national telephone numbers, ...) are listed with the reason as candidates for a human to decide;
    if nothing else is found, so are rows whose text or any other column mentions the identifier.

    Identifiers and texts come from files or, with "-", from standard input: arguments would stay in the shell history.

    Cost: one pass over the training files, two with near-duplicates, in about 100 MB of memory; models are not loaded.
    """

    data: tuple[str, ...]
    """Training files to search."""
    subjects: str | None = None
    """File with subject identifiers, one per line."""
    ids: str | None = None
    """File with record identifiers, one per line."""
    texts: str | None = None
    """File with texts or passages, one per line."""
    models: tuple[str, ...] = ()
    """Folders to search for models that were trained on these records, or made from such models."""
    near: bool = True
    """Also list near-duplicates of these records, for a human to confirm."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print what was found; exit status 3 if nothing was, not even a candidate."""
        from unlearn.scan.lineage import affected_models
        from unlearn.scan.search import PROPOSED, find_records
        from unlearn.scan.spellings import likenesses, subject_hashes
        from verify.data.identity import RecordKey
        from verify.errors import InputError

        given = {name: identifiers_of(getattr(self, name)) for name in ("subjects", "ids")} | {"texts": lines_of(self.texts)}
        if not any(given.values()):
            raise InputError("nothing to search for. Name a file with --subjects, --ids or --texts; - reads standard input.")
        key = RecordKey.load()
        with progress_bar("searching"):
            found = find_records(
                self.data,
                key,
                subjects=subject_hashes(given["subjects"], key),
                record_ids=given["ids"],
                texts=given["texts"],
                likenesses=likenesses(given["subjects"], key),
                fields=self.columns.fields(),
                near=self.near,
            )
        for match in found:
            reason = f"  {match.why}" if match.how in PROPOSED else ""
            print(f"{match.file}:{match.row}  {match.record[:16]}  {match.how}{reason}")  # noqa: T201
        certain = {match.record for match in found if match.how not in PROPOSED}
        near = sum(match.how == "near duplicate" for match in found)
        candidates = sum(match.how in PROPOSED for match in found) - near
        print(f"{len(certain)} records; {near} near-duplicates to confirm; {candidates} candidates to decide")  # noqa: T201
        affected = affected_models(self.models, certain) if self.models else []
        for model in affected:
            print(f"{model.folder}  {model.weights[:16]}  {model.how}: {model.seen}")  # noqa: T201
        if certain:
            self._name_unknown(key, {model.folder for model in affected})
        return 0 if found else 3

    def _name_unknown(self, key: "RecordKey", affected: "set[Path]") -> None:
        """Name the models of which it is not known whether they saw the records: they list no record of the searched files."""
        from unlearn.scan.lineage import hashes_of_records, records_of_models

        others = {folder: seen for folder, _, seen in records_of_models(self.models) if folder not in affected}
        known = hashes_of_records(self.data, key, self.columns.fields()) if others else frozenset[str]()
        for folder in (folder for folder, seen in others.items() if seen.isdisjoint(known)):
            print(  # noqa: T201
                f"{folder}  not known: it lists none of the records in these files under this record key. Give the key that its "
                "log was written with (UNLEARN_VERIFY_KEY_FILE), and the file that it was trained on (--data)."
            )


def lines_of(source: str | None) -> list[str]:
    """Return the non-empty lines of a file, or of standard input for "-".

    Raises:
        InputError: the file cannot be read.
    """
    from verify.errors import InputError

    if source is None:
        return []
    try:
        # A byte order mark, as some programs write it, would become part of the first identifier.
        text = sys.stdin.read().removeprefix("\ufeff") if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        # An identifier that was typed where a file belongs must not reach a log.
        shown = source if Path(source).exists() else "what was given, which is not a file,"
        raise InputError(f"{shown} cannot be read as a text file in UTF-8. Name a file with one entry per line.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def identifiers_of(source: str | None) -> list[str]:
    """Return the identifiers in a file or standard input: one per line, or those of a JSON list of strings.

    Raises:
        InputError: as `lines_of`; or it is JSON of another shape or a table, whose lines name nobody.
    """
    from verify.errors import InputError

    lines = lines_of(source)
    if not lines or source is None:
        return lines
    whole, first = _parsed("\n".join(lines)), _parsed(lines[0])
    if isinstance(whole, list) and all(isinstance(entry, str) for entry in whole):
        return [entry.strip() for entry in whole if entry.strip()]
    shown = "standard input" if source == "-" else source
    if isinstance(whole, list | dict) or isinstance(first, list | dict) or lines[0] in ("[", "{"):
        raise InputError(f"{shown} is JSON, but not a list of strings. Give one identifier per line, or a JSON list of strings.")
    if source.lower().endswith((".csv", ".tsv")) and any(mark in lines[0] for mark in ",;\t"):
        raise InputError(f"{shown} is a table. Give one identifier per line; `unlearn request import` reads batches of requests.")
    return lines


def _parsed(text: str) -> Any:
    """Return text as JSON, or None where it is not JSON."""
    from verify.io.strict_json import parse_json

    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return None


@dataclasses.dataclass(frozen=True)
class CheckDataset:
    """Check a data set for records and people on the suppression list.

    Lists rows that must not be trained on (deleted records, near-duplicates, and suppressed people in any spelling that is
    equivalent by standard) and, as candidates with the reason, rows with a similar identifier as subject or in any other column,
    which includes those that are not read. Exit status 3 if there is
    either; 0 if there is neither, or only candidates that --allow-similar accepts.
    """

    data: Annotated[str, tyro.conf.Positional]
    """The data set to be trained on."""
    suppression: Path
    """The suppression list."""
    allow_similar: bool = False
    """Accept candidates: a human reviewed them, and they are other people."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print the rows that must not be trained on."""
        from unlearn.purge.suppression import SuppressionList
        from unlearn.scan.spellings import why
        from verify.data.identity import RecordKey

        hits = list(SuppressionList.load(self.suppression).check(self.data, RecordKey.load(), self.columns.fields()))
        for hit in hits:
            likeness = f" (similarity {hit.similarity:.2f})" if hit.similarity < 1 else ""
            reason = "" if hit.reason is None else f", {why(hit.reason)}"
            print(f"row {hit.row}: {hit.how}{likeness}{reason}")  # noqa: T201
        certain = sum(hit.certain for hit in hits)
        print(f"{certain} rows must not be trained on" if certain else "nothing in it is on the suppression list")  # noqa: T201
        if similar := len(hits) - certain:
            print(  # noqa: T201
                f"{similar} candidates may be suppressed people under another spelling. Review them; --allow-similar accepts them."
            )
        return 3 if certain or (similar and not self.allow_similar) else 0


@dataclasses.dataclass(frozen=True)
class Suppress:
    """Add deleted records and the people they are about to the suppression list."""

    records: Annotated[str, tyro.conf.Positional]
    """The deleted records: a file."""
    suppression: Path
    """The suppression list; created if missing."""
    whole_subjects: bool = True
    """Suppress all records of these people, and not only these records and their near-duplicates."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Add them and save the list."""
        from unlearn.purge.suppression import extended
        from verify.data.identity import RecordKey
        from verify.data.sources import load_records

        records, key = load_records(self.records, self.columns.fields()), RecordKey.load()
        with extended(self.suppression) as found:
            found.add(records, key, self.whole_subjects)
        print(f"{len(found.records)} records and {len(found.subjects)} people are on {self.suppression}")  # noqa: T201
        return 0
