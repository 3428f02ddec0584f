"""File types that may contain deleted text, and how each is cleaned.

A file that is only a copy is removed: a cache that can be recreated, a tracker's binary log, an autosave. From a file with other
content the affected row, event, output or free page is removed, if the format permits that safely. Training data are rewritten only
on request. Everything else stays and is listed with the reason.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unlearn.purge import redact, sqlite
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.formats import PDF, RAR, SEVEN_ZIP
from unlearn.purge.residue import BY_CONTENT, CannotCleanError, FoundResidue, Residue
from unlearn.purge.unpack import holds
from unlearn.purge.vectors import KIND as VECTORS
from unlearn.purge.vectors import Store, clean_qdrant, is_qdrant_collection
from verify.data.sources import stream_rows
from verify.errors import InputError

Clean = Callable[[Path, ContentSearch], None]
"""Removes deleted text from a file in place, or removes the file."""

CACHE = "datasets cache"
TRACKERS = ("wandb", "mlruns", "lightning_logs")
AUTOSAVES = ".ipynb_checkpoints"
LOG_SUFFIXES = (".log", ".out", ".err")
ROWS_OF: dict[str, Clean] = {
    ".jsonl": redact.cut_lines,
    ".ndjson": redact.cut_lines,
    ".csv": redact.cut_csv_rows,
    ".tsv": redact.cut_csv_rows,
    ".parquet": redact.filter_parquet,
    ".json": redact.redact_json,
}
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
"""Name of the temporary file that `verify.io.files.atomic_file` leaves behind when it is killed."""
DUMP_COLUMNS = {"generated", "generation", "generated_text", "prediction", "predictions", "output", "outputs", "response", "score"}
"""Columns of model outputs and scores, which training data do not have."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npz", ".npy", ".joblib")
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK", SEVEN_ZIP, RAR)
SPARED = "it lies in a folder that must stay; remove it by hand"
REWRITE = "training data are rewritten without the records only with --rewrite-data"
DOCUMENT = "documents are not changed; write it again without the text, or remove it by hand"
UNPACK = "archives are not changed; unpack it, purge the content, and remove the archive"
NOT_OPENED = "a pickle is not opened, since that would run code; remove it by hand if it is not needed"


@dataclass(frozen=True)
class Treatment:
    """A file type and how it is cleaned.

    Attributes:
        kind: name of the kind.
        clean: removes deleted text; None where that is not permitted.
        reason: why it is not permitted, else "".
    """

    kind: str
    clean: Clean | None
    reason: str = ""


@dataclass(frozen=True)
class Rules:
    """Rules that decide how a file with deleted text is treated.

    Attributes:
        search: search for the deleted texts.
        contents: the deleted records' answers with their prompts, to distinguish training data from model outputs.
        rewrite_data: whether training data may be rewritten.
        spare: folders and files in which nothing is changed.
    """

    search: ContentSearch
    contents: Mapping[str, Collection[str]]
    rewrite_data: bool
    spare: tuple[Path, ...]

    def residue(self, path: Path) -> Residue:
        """Return the residue for a file with deleted text."""
        treatment = self._treatment(path)
        if treatment.clean is None:
            return Residue(path, treatment.kind, BY_CONTENT, False, treatment.reason)
        if any(path.is_relative_to(kept) for kept in self.spare):
            return Residue(path, treatment.kind, BY_CONTENT, False, SPARED)
        return FoundResidue(path, treatment.kind, BY_CONTENT, partial(clean_and_check, path, treatment.clean, self.search))

    def store_residue(self, store: Store) -> Residue | None:
        """Return the residue for a vector index, if it contains deleted text.

        Raises:
            UnreadableError: it cannot be searched.
        """
        if not store.holds(self.search):
            return None
        # An index and its rows are changed together, so that either of them keeps both.
        if any(path.is_relative_to(kept) for path in (store.place, *store.files) for kept in self.spare):
            return Residue(store.place, VECTORS, BY_CONTENT, False, SPARED)
        if store.missing:
            return Residue(store.place, VECTORS, BY_CONTENT, False, store.missing)
        rows = None if store.rows is None else self._treatment(store.rows)
        if rows is not None and rows.clean is None:
            return Residue(store.place, VECTORS, BY_CONTENT, False, f"{rows.reason}, and the rows of the index are such")
        return FoundResidue(store.place, VECTORS, BY_CONTENT, partial(store.clean, store.place, self.search))

    def _treatment(self, path: Path) -> Treatment:
        """Return the treatment of a file by its magic number, folder and name, in this order of trust."""
        with path.open("rb") as file:
            head = file.read(16)
        if head == sqlite.MAGIC:
            return self._of_database(path)
        if AUTOSAVES in path.parts:
            return Treatment("notebook autosave", redact.remove_file)
        if _UNFINISHED.fullmatch(path.name):
            return Treatment("unfinished copy", redact.remove_file)
        kind = path.suffix.lower()
        if kind == ".ipynb":
            return Treatment("notebook", redact.clear_notebook)
        if ".tfevents." in path.name:
            return Treatment("event file", redact.cut_events)
        if kind == ".arrow":
            return _of_arrow(path)
        named = Path((path.with_suffix("") if head.startswith(b"\x1f\x8b") and kind == ".gz" else path).name.lower())
        if kind in ROWS_OF:
            return self._of_rows(path, kind)
        if named.suffix in (".jsonl", ".ndjson", ".csv", ".tsv"):
            return self._training_data(ROWS_OF[named.suffix])
        if named.suffix in LOG_SUFFIXES or any(f"{suffix}." in named.name for suffix in LOG_SUFFIXES):
            return Treatment("log", redact.cut_lines)
        if any(part in TRACKERS for part in path.parts):
            return Treatment("experiment tracker", redact.remove_file)
        return self._of_others(path, named.suffix, head)

    def _of_database(self, path: Path) -> Treatment:
        try:
            live = sqlite.live_rows(path, self.search)
        except CannotCleanError as error:
            return Treatment("SQLite database", None, str(error))
        if live and is_qdrant_collection(path):
            return Treatment(VECTORS, clean_qdrant)
        if live:
            return Treatment("SQLite database", None, sqlite.live_reason(live))
        return Treatment("SQLite database", sqlite.vacuum)

    def _of_rows(self, path: Path, kind: str) -> Treatment:
        if not self._is_training_data(path, kind):
            return Treatment("evaluation dump", ROWS_OF[kind])
        return self._training_data(redact.drop_json_entries if kind == ".json" else ROWS_OF[kind])

    def _training_data(self, clean: Clean) -> Treatment:
        return Treatment("training data", clean) if self.rewrite_data else Treatment("training data", None, REWRITE)

    def _is_training_data(self, path: Path, kind: str) -> bool:
        """Return whether a row is a deleted record itself, under any column names, rather than a model's output about one.

        Unreadable rows count as training data, so that they are not changed without a request; other JSON does not.
        """
        if kind == ".json" and path.stat().st_size > redact.LARGEST_JSON:
            return False
        try:
            return any(self._is_record(row) for row in stream_rows(str(path)))
        except (InputError, TypeError):
            return kind != ".json"

    def _is_record(self, row: Any) -> bool:
        if not isinstance(row, Mapping) or DUMP_COLUMNS & {str(name).lower() for name in row}:
            return False
        texts = set(redact.strings_in(row))
        return any(not self.contents[text] or texts & set(self.contents[text]) for text in texts & self.contents.keys())

    def _of_others(self, path: Path, suffix: str, head: bytes) -> Treatment:
        if suffix == ".txt":
            return self._training_data(redact.cut_lines)
        if head.startswith(PDF):
            return Treatment("document", None, DOCUMENT)
        if path.suffix.lower() in PICKLES or head.startswith(b"\x80"):
            return Treatment("pickle", None, NOT_OPENED)
        if head.startswith(PACKED) or suffix == ".tar":
            return Treatment("archive", None, UNPACK)
        if path.suffix.lower() in (".safetensors", ".gguf"):
            return Treatment("weights", None, "the text is in its header; rewrite the file without it")
        return Treatment("other file", None, "files of this kind are not changed; remove the text, or the file, by hand")


def _of_arrow(path: Path) -> Treatment:
    """Treat Arrow files: `save_to_disk` writes a state.json beside its data; without one it is a cache."""
    if (path.parent / "state.json").exists():
        return Treatment("training data", None, "rewrite this saved data set with Dataset.filter and save_to_disk")
    return Treatment(CACHE, redact.remove_cache)


def beside_caches(found: Iterable[Residue]) -> Iterator[Residue]:
    """Yield derived caches (tokenized or filtered) beside caches with deleted text, in which the text cannot be found itself."""
    holding = {residue.place for residue in found if residue.kind == CACHE and residue.removable}
    for folder in sorted({path.parent for path in holding}):
        for path in sorted(folder.iterdir()):
            cached = path.suffix.lower() == ".arrow" or path.name == "dataset_info.json"
            if cached and path not in holding and path.is_file() and not path.is_symlink():
                yield FoundResidue(
                    path, CACHE, "beside a cache that contains one", partial(redact.remove_cache, path, ContentSearch(()))
                )


def clean_and_check(path: Path, clean: Clean, search: ContentSearch) -> None:
    """Clean a file and search it again.

    Raises:
        CannotCleanError: it cannot be cleaned, or still contains deleted text.
    """
    clean(path, search)
    files = [path, *(path.with_name(path.name + side) for side in sqlite.SIDES)]
    if any(holds(file, search) for file in files if file.is_file()):
        raise CannotCleanError("it still contains a passage after it was cleaned; remove it by hand")
