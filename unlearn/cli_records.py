"""Commands about single records: scan for them, suppress them, check a data set for them."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from verify.cli_flags import FieldFlags


@dataclasses.dataclass(frozen=True)
class Scan:
    """Find the training records that a request means, and the models that saw them; prints rows and hashes, never texts.

    Spellings of an identifier that are one by standard are found as the subject: case of a mail address, either form of an
    international domain, canonically equal Unicode, white space, international telephone numbers. Rows that may mean the same
    person (accents, case of names, +tags, national telephone numbers, ...) are listed with the reason as candidates for a human to
    decide; where nothing else is found, also rows whose text names the identifier.

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
        """Print what was found; exit status 3 where nothing was, not even a candidate."""
        from unlearn.requests.finding import PROPOSED, find_records
        from unlearn.requests.intake import subject_hashes
        from unlearn.requests.lineage import affected_models
        from unlearn.requests.spellings import likenesses
        from verify.errors import InputError
        from verify.identity import RecordKey

        given = {name: lines_of(getattr(self, name)) for name in ("subjects", "ids", "texts")}
        if not any(given.values()):
            raise InputError("nothing to look for. Name a file with --subjects, --ids or --texts; - reads standard input.")
        key = RecordKey.load()
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
    """Check whether a data set holds anything that was deleted before.

    Listed are rows that must not be trained on (deleted records, all spellings of suppressed people that are one by standard,
    near-duplicates), and as candidates rows whose subject is spelled similarly, with the reason. Exit status 3 where there is
    either; 0 where there is neither, or only candidates that --allow-similar lets pass.
    """

    data: Annotated[str, tyro.conf.Positional]
    """The data set that is to be trained on."""
    suppression: Path
    """The suppression list."""
    allow_similar: bool = False
    """Let candidates pass: a human looked at them, and they are other people."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print the rows that must not be trained on."""
        from unlearn.requests.spellings import why
        from unlearn.requests.suppression import SuppressionList
        from verify.identity import RecordKey

        hits = list(SuppressionList.load(self.suppression).check(self.data, RecordKey.load(), self.columns.fields()))
        for hit in hits:
            likeness = f" (similarity {hit.similarity:.2f})" if hit.similarity < 1 else ""
            reason = "" if hit.reason is None else f", {why(hit.reason)}"
            print(f"row {hit.row}: {hit.how}{likeness}{reason}")  # noqa: T201
        certain = sum(hit.certain for hit in hits)
        print(f"{certain} rows must not be trained on" if certain else "nothing in it was deleted before")  # noqa: T201
        if similar := len(hits) - certain:
            print(  # noqa: T201
                f"{similar} candidates may be suppressed people under another spelling. Look at them; --allow-similar lets them "
                "pass."
            )
        return 3 if certain or (similar and not self.allow_similar) else 0


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
        from unlearn.requests.suppression import extended
        from verify.identity import RecordKey
        from verify.sources import load_records

        records, key = load_records(self.records, self.columns.fields()), RecordKey.load()
        with extended(self.suppression) as found:
            found.add(records, key, self.whole_subjects)
        print(f"{len(found.records)} records and {len(found.subjects)} people are on {self.suppression}")  # noqa: T201
        return 0
