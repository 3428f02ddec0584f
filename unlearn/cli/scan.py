"""Command `unlearn scan`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.cli.records import identifiers_of, lines_of
from verify.cli.console import progress_bar
from verify.cli.flags import FieldFlags

if TYPE_CHECKING:
    from unlearn.scan.search import Match
    from verify.data.identity import RecordKey

SCHEMA = "unlearn-verify/scan/1"
NOT_KNOWN = "not known"
NO_MANIFEST = "it has weights and no manifest of this program, so nothing says what it was trained on."


@dataclasses.dataclass(frozen=True)
class Scan:
    """Find a person's training records and the models that saw them; prints rows and hashes, never texts.

    Spellings of an identifier that are equivalent by standard are matched: case of a mail address, either form of an international
    domain, canonically equal Unicode, white space, international telephone numbers. Rows that may be about the same person
    (accents, case of names, +tags, national telephone numbers, ...) are listed with the reason as candidates for a human to decide;
    so are rows whose text, other columns or names of columns mention the identifier, or a name, address or number that stands
    beside it in another row. In a file in which a row has the person as its subject, rows that name another subject are not read
    for mentions.

    Identifiers and texts come from files or, with "-", from standard input: arguments would stay in the shell history.

    Cost: one pass over the training files, one more with near-duplicates, and one that reads every word of the files that may
    mention the person, in about 100 MB of memory; models are not loaded.
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
    output: Path | None = None
    """Also write what is printed to this new .json file."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print what was found; exit status 3 if nothing was, not even a candidate."""
        from unlearn.scan.search import PROPOSED
        from verify.data.identity import RecordKey
        from verify.errors import InputError
        from verify.io.files import write_json

        if len(piped := [f"--{name}" for name in ("subjects", "ids", "texts") if getattr(self, name) == "-"]) > 1:
            raise InputError(
                f"{' and '.join(piped)} cannot all be read from standard input, which has one end. Give - to one of them, and "
                "files to the others."
            )
        given = {name: identifiers_of(getattr(self, name)) for name in ("subjects", "ids")} | {"texts": lines_of(self.texts)}
        if not any(given.values()):
            raise InputError("nothing to search for. Name a file with --subjects, --ids or --texts; - reads standard input.")
        if self.output is not None and (self.output.suffix.lower() != ".json" or self.output.exists()):
            raise InputError(f"{self.output} cannot be written. Name a new file that ends in .json.")
        new_key = not RecordKey.default_path().exists()
        key = RecordKey.load()
        notes: list[str] = []
        found = self._found(key, given, notes.append)
        for match in found:
            reason = f"  {match.why}" if match.how in PROPOSED else ""
            print(f"{match.file}:{match.row}  {match.record[:16]}  {match.how}{reason}")  # noqa: T201
        certain = {match.record for match in found if match.how not in PROPOSED}
        near = sum(match.how == "near duplicate" for match in found)
        candidates = sum(match.how in PROPOSED for match in found) - near
        counted = {"record": len(certain), "near-duplicate to confirm": near, "candidate to decide": candidates}
        print("; ".join(_counted(number, *what.split(" ", 1)) for what, number in counted.items()))  # noqa: T201
        for said in notes:
            print(f"NOTE: {said}")  # noqa: T201
        models = self._models(key, certain, {match.record for match in found} - certain, new_key) if self.models else []
        for model in models:
            shown = f"  {model['weights'][:16]}" if model["how"] != NOT_KNOWN else ""
            print(f"{model['folder']}{shown}  {model['how']}: {model['what']}")  # noqa: T201
        about: dict[str, Any] = ({"notes": notes} if notes else {}) | ({"models": models} if self.models else {})
        if self.models and not models:
            about["note"] = self._no_model(bool(found))
            print(about["note"])  # noqa: T201
        if self.output is not None:
            counts = {"records": len(certain), "near_duplicates": near, "candidates": candidates}
            rows = [_described(match) | ({"why": match.why} if match.how in PROPOSED else {}) for match in found]
            write_json(self.output, {"schema": SCHEMA, **counts, "matches": rows, **about}, mode=0o600)
        return 0 if found else 3

    def _found(self, key: "RecordKey", given: dict[str, list[str]], tell: Callable[[str], None]) -> "list[Match]":
        """Search the files."""
        from unlearn.scan.search import find_records
        from unlearn.scan.spellings import likenesses, subject_hashes

        with progress_bar("searching"):
            return find_records(
                self.data,
                key,
                subjects=subject_hashes(given["subjects"], key),
                record_ids=given["ids"],
                texts=given["texts"],
                likenesses=likenesses(given["subjects"], key),
                fields=self.columns.fields(),
                near=self.near,
                tell=tell,
            )

    def _models(self, key: "RecordKey", certain: set[str], proposed: set[str], new_key: bool) -> list[dict[str, Any]]:
        """Return what the models saw: of the records, else of those to decide on; and those of which it is not known, with why."""
        from unlearn.scan.lineage import affected_models
        from unlearn.scan.unknown import unknown_models, without_manifest

        known, sure, perhaps = self._hashes(key, certain, proposed)
        affected = affected_models(self.models, sure)
        folders = {model.folder for model in affected}
        maybe = [model for model in affected_models(self.models, perhaps) if model.folder not in folders]
        folders |= {model.folder for model in maybe}
        unknown = unknown_models(self.models, known, key, affected=folders, new_key=new_key, whole=True)
        return [
            *(_of_model(model.folder, model.weights, model.how, model.seen) for model in affected),
            *(_of_model(model.folder, model.weights, f"{model.how} candidates", model.seen) for model in maybe),
            *(_of_model(model.folder, model.weights, NOT_KNOWN, model.why) for model in unknown),
            *(_of_model(folder, None, NOT_KNOWN, NO_MANIFEST) for folder in without_manifest(self.models)),
        ]

    def _no_model(self, found: bool) -> str:
        """Return what is said where no model saw the records and none is unknown."""
        from unlearn.scan.lineage import records_of_models

        if not any(True for _ in records_of_models(self.models)):
            return f"no model below {', '.join(self.models)}. Name the folders that contain models with --models."
        return "no model below these folders saw them" if found else "all records that these models list were searched"

    def _hashes(self, key: "RecordKey", certain: set[str], proposed: set[str]) -> tuple[set[str], set[str], set[str]]:
        """Return keyed hashes, as logs have them, of the files' records that a model lists, the certain and the proposed ones."""
        from unlearn.scan.lineage import hashes_of_record, records_of_models
        from verify.data.sources import stream_records

        # Of millions of records only those that a model was trained on are kept in memory.
        listed = {name for _, _, seen in records_of_models(self.models) for name in seen}
        known: set[str] = set()
        sure, perhaps = set(certain), set(proposed)
        for record in (record for file in self.data for record in stream_records(file, self.columns.fields())):
            names = hashes_of_record(record, key)
            known |= names & listed
            sure |= names if names & certain else set()
            perhaps |= names if names & proposed else set()
        return known, sure, perhaps


def _described(match: "Match") -> dict[str, Any]:
    return {"file": match.file, "row": match.row, "record": match.record, "how": match.how}


def _of_model(folder: Path, weights: str | None, how: str, what: str) -> dict[str, Any]:
    return {"folder": str(folder), "weights": weights, "how": how, "what": what}


def _counted(number: int, noun: str, more: str = "") -> str:
    """Return a number with its noun, in the plural unless it is one, and what follows it."""
    return f"{number} {noun}{'' if number == 1 else 's'} {more}".rstrip()
