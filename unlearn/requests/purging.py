"""Cleaning up: find what is left of deleted records below some folders, remove what may be removed, list the rest with reasons.

Two ways of finding. By content: every file is read, also what is packed in it, for passages of the deleted texts. By lineage:
models and checkpoints that saw the records, copies of their weights, caches made from a cache that holds one. Symbolic links are
not followed, nothing outside of the named folders is touched, and a purge that was cut off is taken up by running it again: what is
known only by something else that goes is removed before it.

What is not found: text that was compressed otherwise, encrypted, translated or tokenized (but for caches beside a find), a Git
repository's history, and quantized exports that keep no tensor as it was.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from unlearn.requests.content_search import ContentSearch
from unlearn.requests.lineage import AffectedModel
from unlearn.requests.model_residues import WEIGHT_SUFFIXES, behind_unlearning, covered_files, model_residues
from unlearn.requests.residues import CannotMendError, FoundResidue, Residue
from unlearn.requests.sqlite_residues import database_of
from unlearn.requests.treatments import Rules, beside_caches
from unlearn.requests.unpacking import UnreadableError, holds
from unlearn.requests.weight_copies import WeightIndex
from verify.errors import InputError, VerifyError
from verify.files import MANIFEST, disk_errors
from verify.identity import RecordKey
from verify.records import Record

__all__ = ["UNSEARCHED", "Residue", "data_residues", "find_residues", "places", "remove"]

UNSEARCHED = "it could not be searched"
"""How, for what is listed only because nobody could look into it."""


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
    """Everything below some folders that holds deleted data, or may hold it. Nothing is changed.

    Args:
        roots: folders to search.
        records: what was deleted.
        key: the key that training logs name records by.
        affected: models that saw them (`unlearn.requests.lineage.affected_models`).
        spare: folders and files that must stay: the model in service, the ledger, the key.
        retained: the other training records. Prompts are searched, and texts that several people share are told from those of one,
            only where they are given.
        rewrite_data: whether training data may be rewritten without the records.
        search: a search for them that was prepared already; `retained` is not read then.

    Raises:
        InputError: a root is no folder.
    """
    tops = [_top(root) for root in roots]
    kept = tuple(place.resolve() for place in spare)
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
    by_content = list(_by_content(rest, Rules(search, _contents(records), rewrite_data, kept)))
    # What tells of others goes after them: a cache after those made from it, a model after its copies and checkpoints.
    unknown = [_unreadable(folder, "cannot be read") for folder in closed]
    return _one_each([*copies, *beside_caches(by_content), *by_content, *of_models, *unknown])


def places(roots: Sequence[Path]) -> Iterator[Path]:
    """Every folder and ordinary file below some folders, themselves included: what a residue's place can be.

    Raises:
        InputError: a root is no folder.
    """
    for found in _walk([_top(root) for root in roots]):
        yield from found


def data_residues(files: Sequence[Path], records: Sequence[Record], retained: Iterable[Record]) -> list[Residue]:
    """Training files that are known to hold the records, wherever they lie, to be written anew without them.

    Args:
        files: resolved.
        records: what was deleted.
        retained: the other training records.
    """
    rules = Rules(ContentSearch(records, retained), _contents(records), True, ())
    return [rules.residue(path) for path in files]


def remove(residues: Sequence[Residue]) -> list[Residue]:
    """Remove what may be removed; return what stays, each with its reason.

    Args:
        residues: as `find_residues` gave them, in that order.
    """
    return [stays for residue in residues if (stays := _removed(residue)) is not None]


def _removed(residue: Residue) -> Residue | None:
    if not residue.removable:
        return residue
    if not isinstance(residue, FoundResidue):
        return _staying(residue, "it was not found in this run; search again")
    try:
        if residue.place.resolve() != residue.place:
            return _staying(residue, "a symbolic link has come into its path since it was found; search again")
        with disk_errors(residue.place):
            residue.action()
    except FileNotFoundError:
        return None if not residue.place.exists() else _staying(residue, "it was changed while it was being removed; search again")
    except (CannotMendError, VerifyError) as error:
        return _staying(residue, str(error))
    except UnreadableError as error:
        return _staying(residue, f"it {error}; remove it by hand")
    except Exception as error:  # noqa: BLE001 - a file of a foreign format may fail in any way; the others are still removed
        return _staying(residue, f"it could not be mended ({type(error).__name__}); remove it by hand")
    return None


def _staying(residue: Residue, reason: str) -> Residue:
    return Residue(residue.place, residue.kind, residue.how, False, reason, residue.weights)


def _top(root: Path) -> Path:
    if not Path(root).is_dir():
        raise InputError(f"{root} is no folder. Name the folders to search with --search DIR ...")
    return Path(root).resolve()


def _walk(tops: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """All folders, ordinary files, and folders that may not be read, each once; links are not followed, pipes left out."""
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
    """A folder in which something lies that must stay is listed, and not taken apart around it."""
    if residue.removable and any(place.is_relative_to(residue.place) for place in kept):
        return _staying(residue, "something that must stay lies in it; move that out, then purge again")
    return residue


def _within(path: Path, places: Collection[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _contents(records: Sequence[Record]) -> dict[str, set[str]]:
    """Answers of the records, with the prompts they were given to."""
    found: dict[str, set[str]] = {}
    for record in records:
        prompts = {content for role, content in record.messages if role != "assistant"} | ({record.prompt} - {""})
        for answer in [record.completion, *record.assistant_texts]:
            if answer:
                found.setdefault(answer, set()).update(prompts)
    return found


def _weight_copies(files: Sequence[Path], doomed: Sequence[AffectedModel], clean: Sequence[Path]) -> Iterator[Residue]:
    """Folders of weights that have no manifest to tell whose they are, compared tensor by tensor."""
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix in WEIGHT_SUFFIXES and not (path.parent / MANIFEST).exists():
            by_folder.setdefault(path.parent, []).append(path)
    unlearned = behind_unlearning(doomed)
    models = [(model.weights, model.folder) for model in doomed if model.records or model.weights not in unlearned]
    index = WeightIndex(models if by_folder else (), clean)
    for own in by_folder.values():
        exports = [path for path in own if path.suffix == ".gguf"]
        for path in exports:
            if (likeness := index.likeness([path])) is not None:
                reason = f"{likeness.shared} of its tensors are an affected model's, the others cannot be told; remove it by hand"
                yield Residue(path, "quantized export", "its unquantized tensors", False, reason, likeness.weights)
        others = [path for path in own if path not in exports]
        likeness = index.likeness(others)
        if likeness is not None and likeness.is_copy:
            for path in others:
                if index.likeness([path]) is not None:  # a file that could not be read lies here by chance
                    yield FoundResidue(path, "copied weights", "the tensors of an affected model", path.unlink, likeness.weights)


def _by_content(files: Sequence[Path], rules: Rules) -> Iterator[Residue]:
    for path in files if rules.search else ():
        try:
            if holds(path, rules.search):
                yield rules.residue(database_of(path))
        except (UnreadableError, OSError) as error:
            yield _unreadable(path, str(error) if isinstance(error, UnreadableError) else "cannot be read")


def _unreadable(place: Path, why: str) -> Residue:
    reason = f"it {why}, so that what it holds is not known; look at it, or remove it"
    return Residue(place, "unreadable", UNSEARCHED, False, reason)


def _one_each(found: Iterable[Residue]) -> list[Residue]:
    """One residue for each place, one that can be removed before one that cannot."""
    chosen: dict[Path, Residue] = {}
    for residue in found:
        if residue.place not in chosen or (residue.removable and not chosen[residue.place].removable):
            chosen[residue.place] = residue
    return list(chosen.values())
