"""Commands about records: suppress them, check a data set for suppressed ones; and reading of files with identifiers."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from verify.cli.flags import FieldFlags


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
    """Check data sets for records and people on the suppression list.

    Lists rows that must not be trained on (deleted records, near-duplicates, and suppressed people in any spelling that is
    equivalent by standard) and, as candidates with the reason, rows with a similar identifier as subject or in any other column,
    which includes those that are not read, or with a name, address or number that stands beside a suppressed identifier in another
    row of these data sets. Exit status 3 if there is either; 0 if there is neither, or only candidates that --allow-similar
    accepts.
    """

    data: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The data sets to be trained on. Give all that belong together: one may say how a person of another is called."""
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
        from verify.errors import InputError

        if not self.data:
            raise InputError("name the data sets: unlearn check-dataset FILE ... --suppression LIST")
        hits = list(SuppressionList.load(self.suppression).check(self.data, RecordKey.load(), self.columns.fields()))
        for hit in hits:
            likeness = f" (similarity {hit.similarity:.2f})" if hit.similarity < 1 else ""
            reason = "" if hit.reason is None else f", {why(hit.reason)}"
            where = f"row {hit.row}" if len(self.data) == 1 else f"{hit.file}, row {hit.row}"
            print(f"{where}: {hit.how}{likeness}{reason}")  # noqa: T201
        certain = sum(hit.certain for hit in hits)
        where = "it" if len(self.data) == 1 else "them"
        print(  # noqa: T201
            f"{certain} rows must not be trained on" if certain else f"nothing in {where} is on the suppression list"
        )
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
