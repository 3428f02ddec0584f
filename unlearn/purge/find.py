"""Search of folders for residues of deleted records; removes what may be removed and lists the rest with reasons.

Residues are found by content, by reading every file and everything packed inside for passages of the deleted texts, and by lineage:
models and checkpoints that saw the records, copies of their weights, level tables with rows of them, caches derived from a cache
with deleted text. Symbolic links are not followed and nothing outside of the given folders is touched. An interrupted purge is
resumed by running it again, since a file that identifies another residue is removed after it.

Files that are encrypted, packed in a format that is not opened, or whose library is missing are listed as not searched. Texts that
were translated, tokenized (except in caches beside a match) or drawn in pictures, and quantized exports in which no tensor is
unchanged, are neither found nor listed.
"""

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from unlearn.purge.content_search import ContentSearch
from unlearn.purge.file_types import Rules, beside_caches
from unlearn.purge.formats import UnreadableError
from unlearn.purge.models import WEIGHT_SUFFIXES, behind_unlearning, covered_files, model_residues
from unlearn.purge.residue import TRAINING_FILE, CannotCleanError, FoundResidue, Residue
from unlearn.purge.sqlite import database_of
from unlearn.purge.unpack import holds
from unlearn.purge.vectors import KIND as VECTORS
from unlearn.purge.vectors import Store, stores
from unlearn.purge.weight_copies import WeightIndex
from unlearn.scan.lineage import AffectedModel, stages_of
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError, VerifyError
from verify.io.files import MANIFEST, disk_errors, is_complete
from verify.provenance.descent import trained_records
from verify.provenance.level_rows import ROWS
from verify.provenance.level_table import KIND, LevelTable, remove_rows

__all__ = ["UNSEARCHED", "Residue", "data_residues", "find_residues", "places", "remove"]

UNSEARCHED = "it could not be searched"
"""Value of `how` for what is listed only because it could not be read."""


def find_residues(
    roots: Sequence[Path],
    *,
    records: Sequence[Record],
    key: RecordKey,
    affected: Sequence[AffectedModel],
    spare: Collection[Path] = (),
    retained: Iterable[Record] = (),
    rewrite_data: bool = False,
    search: ContentSearch | None = None,
) -> list[Residue]:
    """Find everything below some folders that contains, or may contain, deleted data. Changes nothing.

    Args:
        roots: folders to search.
        records: the deleted records.
        key: the key of the record hashes in training logs.
        affected: models that saw them (`unlearn.scan.lineage.affected_models`).
        spare: folders and files that must stay: the model in service, the ledger, the key.
        retained: the other training records. Only if they are given, prompts are searched for, and texts that other records share
            are left out.
        rewrite_data: whether training data may be rewritten without the records.
        search: an already prepared search for the records; `retained` is not read then.

    Raises:
        InputError: a root is not a folder.
    """
    tops = [_top(root) for root in roots]
    kept = tuple(path.resolve() for path in spare)
    folders, files, closed = _walk(tops)
    search = ContentSearch(records, retained) if search is None else search
    names = {key.of(record.fingerprint) for record in records}
    serving = [model for model in affected if _within(model.folder.resolve(), kept)]
    doomed = [model for model in affected if model not in serving]
    by_lineage = model_residues([folder for folder in folders if not _within(folder, kept)], doomed, names)
    of_models = [_respecting(residue, kept) for residue in by_lineage]
    covered = {path for residue in of_models if residue.removable for path in covered_files(residue.place, files)}
    rest = [path for path in files if path not in covered]
    copies = _weight_copies([path for path in rest if not _within(path, kept)], doomed, [*kept, *(own.folder for own in serving)])
    rules, indexes = Rules(search, _contents(records), rewrite_data, kept), list(stores(folders, rest))
    indexed = {path for store in indexes for path in store.files}
    by_content = list(_by_content([path for path in rest if path not in indexed], rules))
    in_indexes = list(_in_indexes(indexes, rules))
    # A residue that identifies others comes after them: a cache after those derived from it, a model after its copies.
    unknown = [_unreadable(folder, "cannot be read") for folder in closed]
    tables = _level_tables([folder for folder in folders if not _within(folder, kept)], names, set(rest))
    found = _one_each([*copies, *beside_caches(by_content), *by_content, *in_indexes, *of_models, *tables, *unknown])
    return _keeping_linked(found, files)


def places(roots: Sequence[Path]) -> Iterator[Path]:
    """Yield every folder and regular file below some folders, themselves included.

    Raises:
        InputError: a root is not a folder.
    """
    for found in _walk([_top(root) for root in roots]):
        yield from found


def data_residues(
    files: Sequence[Path], records: Sequence[Record], retained: Iterable[Record], roots: Sequence[Path] = ()
) -> list[Residue]:
    """Return residues for training files known to contain the records, to be rewritten without them.

    Args:
        files: resolved paths.
        records: the deleted records.
        retained: the other training records.
        roots: folders that are searched: a further name (hard link) of a file there is found, one elsewhere lets the file stay.
    """
    rules = Rules(ContentSearch(records, retained), _contents(records), True, ())
    searched = {*files, *_walk([_top(root) for root in roots])[1]}
    return _keeping_linked([_as_training_file(rules.residue(path)) for path in files], searched)


def _as_training_file(residue: Residue) -> Residue:
    """Return a residue under the kind of what it is, as it is not a copy."""
    if isinstance(residue, FoundResidue):
        return FoundResidue(residue.place, TRAINING_FILE, residue.how, residue.action)
    return Residue(residue.place, TRAINING_FILE, residue.how, False, residue.reason)


def remove(residues: Sequence[Residue]) -> list[Residue]:
    """Remove what may be removed; return what remains, each with its reason.

    Args:
        residues: from `find_residues`, in its order.
    """
    return [stays for residue in residues if (stays := _removed(residue)) is not None]


def _removed(residue: Residue) -> Residue | None:
    """Remove one residue; return it with a reason if it stays, else None."""
    if not residue.removable:
        return residue
    if not isinstance(residue, FoundResidue):
        return residue.staying("it was not found in this run; search again")
    try:
        if residue.place.resolve() != residue.place:
            return residue.staying("its path contains a symbolic link since it was found; search again")
        with disk_errors(residue.place):
            residue.action()
    except FileNotFoundError:
        return None if not residue.place.exists() else residue.staying("it was changed while it was being removed; search again")
    except (CannotCleanError, VerifyError) as error:
        return residue.staying(str(error))
    except UnreadableError as error:
        return residue.staying(f"it {error}; remove it by hand")
    except Exception as error:  # noqa: BLE001 - a file of a foreign format may fail in any way; the others are still removed
        return residue.staying(f"it could not be cleaned ({type(error).__name__}); remove it by hand")
    return None


def _top(root: Path) -> Path:
    if not Path(root).is_dir():
        raise InputError(f"{root} is not a folder. Name the folders to search with --search DIR ...")
    return Path(root).resolve()


def _walk(tops: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Return all folders, regular files and unreadable folders, each once, without following links."""
    folders: dict[Path, None] = {}
    files: dict[Path, None] = {}
    closed: dict[Path, None] = {}
    for top in tops:
        for parent, names, own in os.walk(top, onerror=lambda error: closed.setdefault(Path(error.filename))):
            names.sort()
            folders[Path(parent)] = None
            files.update(dict.fromkeys(path for path in (Path(parent) / name for name in sorted(own)) if _is_ordinary(path)))
    return list(folders), list(files), list(closed)


def _is_ordinary(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _respecting(residue: Residue, kept: Collection[Path]) -> Residue:
    """List, rather than remove, folders that contain something that must stay."""
    if residue.removable and any(path.is_relative_to(residue.place) for path in kept):
        return residue.staying("it contains something that must stay; move that out, then purge again")
    return residue


def _keeping_linked(found: Sequence[Residue], files: Collection[Path]) -> list[Residue]:
    """List, rather than remove, files with a further name (hard link) outside of the searched folders.

    Under that name the content would stay, and no later search would find it.
    """
    names: Counter[tuple[int, int]] = Counter()
    links: dict[Path, tuple[tuple[int, int], int]] = {}
    for path in files:
        with suppress(OSError):
            facts = path.lstat()
            if facts.st_nlink > 1:
                names[facts.st_dev, facts.st_ino] += 1
                links[path] = (facts.st_dev, facts.st_ino), facts.st_nlink
    outside = {path: count - names[inode] for path, (inode, count) in links.items() if count > names[inode]}
    return [_linked(residue, outside, files) if outside and residue.removable else residue for residue in found]


def _linked(residue: Residue, outside: Mapping[Path, int], files: Collection[Path]) -> Residue:
    """Return a residue as it is, or as staying where one of its files has a name outside of the searched folders."""
    own = covered_files(residue.place, files) if residue.place.is_dir() else {residue.place}
    count = sum(outside[path] for path in own & outside.keys())
    if not count:
        return residue
    named = "1 further name (hard link)" if count == 1 else f"{count} further names (hard links)"
    return residue.staying(
        f"it has {named} outside of the searched folders, under which its content would stay; `find / -samefile FILE` lists them: "
        "remove them, or search their folders as well",
    )


def _within(path: Path, roots: Collection[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _contents(records: Sequence[Record]) -> dict[str, set[str]]:
    """Return the records' answers, each with its prompts."""
    found: dict[str, set[str]] = {}
    for record in records:
        prompts = {content for role, content in record.messages if role != "assistant"} | ({record.prompt} - {""})
        for answer in [record.completion, *record.assistant_texts]:
            if answer:
                found.setdefault(answer, set()).update(prompts)
    return found


def _level_tables(folders: Sequence[Path], names: Collection[str], staying: Collection[Path]) -> Iterator[Residue]:
    """Yield the level tables that have rows of the records; only the rows go, which hold what models made of the texts.

    One without a manifest that fits is listed, unless it can be read and has no such row, or goes with a folder around it: then its
    files are not among those that stay.
    """
    for folder in folders:
        whole = is_complete(folder, KIND)
        if not whole and folder / ROWS not in staying:
            continue
        try:
            rows = sum(name in names for name in LevelTable.open(folder).rows.records)
        except InputError:
            yield _unreadable(folder, "is a damaged level table")
            continue
        if rows and not whole:
            yield _unreadable(folder, "is a level table that is unfinished, or whose manifest does not fit its files")
        elif rows:
            yield FoundResidue(folder, "level table", f"{rows} of its rows", partial(remove_rows, folder, names))


def _weight_copies(files: Sequence[Path], doomed: Sequence[AffectedModel], clean: Sequence[Path]) -> Iterator[Residue]:
    """Compare weight folders without a manifest tensor by tensor with the affected models."""
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix.lower() in WEIGHT_SUFFIXES and not (path.parent / MANIFEST).exists():
            by_folder.setdefault(path.parent, []).append(path)
    unlearned = behind_unlearning(doomed)
    chosen = [model for model in doomed if model.records or model.weights not in unlearned]
    models = [(model.weights, place) for model in chosen if by_folder for place in (model.folder, *_stages_that_saw(model))]
    index = WeightIndex(models, clean)
    for own in by_folder.values():
        exports = [path for path in own if path.suffix.lower() == ".gguf"]
        for path in exports:
            if (likeness := index.likeness([path])) is not None:
                reason = f"{likeness.shared} of its tensors are an affected model's, others cannot be compared; remove it by hand"
                yield Residue(path, "quantized export", "its unquantized tensors", False, reason, likeness.weights)
        others = [path for path in own if path not in exports]
        likeness = index.likeness(others)
        if likeness is not None and likeness.is_copy:
            for path in others:
                if index.likeness([path]) is not None:  # not the unreadable or foreign files beside the copy
                    yield FoundResidue(path, "copied weights", "the tensors of an affected model", path.unlink, likeness.weights)


def _stages_that_saw(model: AffectedModel) -> Iterator[Path]:
    """Yield the stages of a model in shards that were trained on one of the records: it answers with the weights of these."""
    yield from (stage for stage in stages_of(model.folder) if trained_records(stage) & model.names)


def _by_content(files: Sequence[Path], rules: Rules) -> Iterator[Residue]:
    """Yield a residue for every file that contains deleted text or cannot be read."""
    for path in files if rules.search else ():
        try:
            if holds(path, rules.search):
                yield rules.residue(database_of(path))
        except (UnreadableError, OSError) as error:
            yield _unreadable(path, str(error) if isinstance(error, UnreadableError) else "cannot be read")


def _in_indexes(indexes: Sequence[Store], rules: Rules) -> Iterator[Residue]:
    """Yield a residue for every vector index that contains deleted text or cannot be searched."""
    for store in indexes if rules.search else ():
        try:
            residue = rules.store_residue(store)
        except (UnreadableError, OSError) as error:
            residue = _unreadable(store.place, str(error) if isinstance(error, UnreadableError) else "cannot be read", VECTORS)
        if residue is not None:
            yield residue


def _unreadable(path: Path, why: str, kind: str = "unreadable") -> Residue:
    reason = f"not searched: it {why}, so its content is not known; look at it, or remove it"
    return Residue(path, kind, UNSEARCHED, False, reason)


def _one_each(found: Iterable[Residue]) -> list[Residue]:
    """Keep one residue per path, a removable one before one that is not."""
    chosen: dict[Path, Residue] = {}
    for residue in found:
        if residue.place not in chosen or (residue.removable and not chosen[residue.place].removable):
            chosen[residue.place] = residue
    return list(chosen.values())
