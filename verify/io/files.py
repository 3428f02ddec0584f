"""Atomic file writes, strict reads, and manifests of digests that are written last.

A reader trusts a directory only if its manifest verifies: a run that is killed leaves a directory without one, and a changed byte
leaves a manifest that no longer matches.
"""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from verify.errors import InputError, IntegrityError, RunError
from verify.io.strict_json import NotStrictError, parse_json

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "unlearn-verify/manifest/1"
CHUNK_BYTES = 1 << 20


@contextmanager
def atomic_file(path: str | Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Open a temporary file in the folder of `path`; rename it to `path` on success, remove it on failure.

    Args:
        path: path of the file; missing folders are made.
        mode: permissions of the file.

    Raises:
        RunError: the disk is full or the folder is not writable; a file that was at `path` is unchanged.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with disk_errors(path):
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
            sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn operating-system errors within a `with` block into a `RunError` with a next step."""
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        # safetensors raises an error of its own that has the operating system's error in its text only.
        full = code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "code: 28" in str(error)
        if full:
            raise RunError(
                f"no space left on the disk while writing {path}. Nothing that was there before is lost. "
                "Free some space or choose another --output, then run the same command again."
            ) from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise RunError(f"{path} cannot be written. Give an --output in a folder that you may write to.") from error
        raise


def sync_directory(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str, mode: int = 0o644) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path, mode) as stream:
        stream.write(text.encode())


def write_json(path: str | Path, content: Any, mode: int = 0o644) -> None:
    """Write `content` as indented JSON, atomically. NaN and infinity raise ValueError: they are never written."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", mode)


def read_json(path: str | Path, *, constants: bool = False) -> Any:
    """Read a JSON file strictly.

    Args:
        path: path of the file.
        constants: whether NaN and infinity are accepted, which some models' configurations contain.

    Raises:
        InputError: the file is missing, truncated, not JSON, or gives one name twice.
    """
    path = Path(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"), constants=constants)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Give the path of an existing JSON file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give the path of an existing JSON file.") from None
    except NotStrictError as error:
        named = "" if error.name is None else f" ({error.name!r})"
        raise InputError(f"{path} is ambiguous: {error.reason}{named}. Correct it, or make it again.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a whole JSON file ({type(error).__name__}); it may be cut off. Make it again or restore it."
        ) from None


def no_file(path: str | Path) -> str:
    """Say of a path that names no regular file what it is: the predicate of an error message."""
    if Path(path).is_dir():
        return "is a folder"
    return "is not a regular file" if Path(path).exists() else "does not exist"


def file_digest(path: str | Path) -> str:
    """Compute SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: str | Path, kind: str, about: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of all files below `folder`, except subfolders with a manifest of their own.

    Args:
        folder: a directory with its final content.
        kind: kind of the directory: "model", "checkpoint", "audit", ...
        about: further facts, JSON-serializable and free of personal data.
    """
    folder = Path(folder)
    files = {
        name: {"sha256": file_digest(folder / name), "bytes": (folder / name).stat().st_size} for name in _covered_files(folder)
    }
    write_json(folder / MANIFEST, {"schema": MANIFEST_SCHEMA, "kind": kind, "about": dict(about or {}), "files": files})


def _covered_files(folder: Path) -> list[str]:
    """Return the sorted relative names of the files that the manifest covers."""
    names = []
    for parent, subfolders, files in os.walk(folder):
        # In place, so that `os.walk` does not descend into them.
        subfolders[:] = [name for name in subfolders if not (Path(parent) / name / MANIFEST).exists()]
        names += [
            (Path(parent) / name).relative_to(folder).as_posix()
            for name in files
            if name != MANIFEST and not name.endswith(".part")
        ]
    return sorted(names)


def verify_manifest(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Check every digest in a directory's manifest and return the manifest.

    Args:
        folder: the directory.
        kind: the expected kind; None for any.

    Raises:
        IntegrityError: there is no manifest, it is damaged, or a file is missing or differs; the message names the file.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise IntegrityError(f"{folder} has no {MANIFEST}: it is incomplete. Run the command that makes it again.")
    try:
        manifest = read_json(folder / MANIFEST)
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        found_kind, schema = manifest["kind"], manifest["schema"]
    except (InputError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{folder / MANIFEST} is damaged. Restore the directory, or make it again.") from None
    if schema != MANIFEST_SCHEMA or (kind is not None and found_kind != kind):
        raise IntegrityError(
            f"{folder} holds {found_kind!r} ({schema}), expected {kind!r} ({MANIFEST_SCHEMA}). Give the right directory."
        )
    for name, digest in files.items():
        path = folder / name
        if "\x00" in name or not path.resolve().is_relative_to(folder.resolve()):
            raise IntegrityError(f"{folder / MANIFEST} names a file outside its directory. Do not trust this directory.")
        if not path.is_file():
            raise IntegrityError(f"{path} is missing though the manifest lists it. Restore it, or make the directory again.")
        if file_digest(path) != digest:
            raise IntegrityError(
                f"{path} is not the file that the manifest describes: it was changed or damaged. "
                "Restore it, or make the directory again."
            )
    return dict(manifest)


def is_complete(folder: str | Path, kind: str | None = None) -> bool:
    """Return whether a directory's manifest verifies."""
    try:
        verify_manifest(folder, kind)
    except IntegrityError:
        return False
    return True


def new_output(folder: str | Path, resumable: Callable[[Path], bool] = lambda _: False) -> Path:
    """Create the directory of a new run, or accept one of an interrupted run.

    Args:
        folder: the directory.
        resumable: returns whether a directory holds the same run, interrupted.

    Raises:
        InputError: the directory already holds something else, which is left unchanged.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file. Give the name of a new directory.")
    if folder.is_dir() and any(folder.iterdir()) and not resumable(folder):
        raise InputError(
            f"--output {folder} already holds another run or other files. "
            "Give the name of a new directory, or move the old one away."
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


LOCK = ".lock"
"""File in a working folder that its process holds a lock on."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder within a `with` block; the system releases it even if the process is killed.

    Raises:
        InputError: another process holds the lock.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"another process works in {folder}. Wait until it has ended, then run the same command.") from None
        yield


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder itself, with no file in it, within a `with` block; it ends with the process, too.

    Some network file systems have no locks on folders. There nothing is held, and nobody is refused.

    Raises:
        InputError: another run holds the lock, in this process or another.
    """
    with disk_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run works in {folder}. Wait until it has ended, then run the same command, or give another --output."
            ) from None
        except OSError:  # no locks there
            pass
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a forked process still has the folder open
        os.close(descriptor)
