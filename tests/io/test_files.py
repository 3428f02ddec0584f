"""A file is there whole or not at all; a directory is what its manifest says or is not read."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from verify.errors import InputError, IntegrityError, RunError
from verify.io import files
from verify.io.files import (
    MANIFEST,
    atomic_file,
    is_complete,
    new_output,
    only_writer,
    read_json,
    verify_manifest,
    write_json,
    write_manifest,
    write_text,
)


def test_atomic_file_replaces_whole(tmp_path: Path) -> None:
    """While the block runs the old content stands; after it, the new one, with the mode asked for and no leftovers."""
    path = tmp_path / "a" / "f"
    write_text(path, "old")
    with atomic_file(path, mode=0o600) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("raised", [ValueError("x"), KeyboardInterrupt()])
def test_atomic_file_survives_an_exception(raised: BaseException, tmp_path: Path) -> None:
    """An exception in the block, even an interrupt, passes through and leaves the old file and nothing else."""
    path = tmp_path / "f"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_file(path) as stream:
            stream.write(b"half")
            raise raised

    with pytest.raises(type(raised)):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("call", ["fsync", "fdopen"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_a_run_error(call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or quota, met when opening or when syncing, ends in one sentence; what stood there stands."""
    path = tmp_path / "f"
    write_text(path, "old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(RunError, match="no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_full_disk_during_write_is_a_run_error(tmp_path: Path) -> None:
    """The same for an error that a writer inside the block meets."""
    with pytest.raises(RunError, match="no space left"), atomic_file(tmp_path / "f"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed_is_a_run_error(tmp_path: Path) -> None:
    """An output below a file cannot be written, and is said so."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "f", tmp_path / "file" / "g" / "f"):
        with pytest.raises(RunError, match="cannot be written"):
            write_text(path, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_never_holds_nan(value: float, tmp_path: Path) -> None:
    """A number that is not finite is an error before anything is written."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "f.json", {"x": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "bytes", "nested"])
def test_read_json_refuses_damage(content: bytes, tmp_path: Path) -> None:
    """Empty, cut, misencoded and deeply nested files are input errors."""
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(InputError, match="not a whole JSON"):
        read_json(tmp_path / "f.json")
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "g.json")


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A directory with two files, a subfolder, and its manifest."""
    folder = tmp_path / "run"
    write_text(folder / "a", "1")
    write_text(folder / "sub" / "b", "2")
    write_manifest(folder, "model", {"seed": 3})
    return folder


def test_manifest_describes_what_is_there(described: Path) -> None:
    """Every file is listed, the facts are kept, and a fresh directory verifies."""
    manifest = verify_manifest(described, "model")
    assert sorted(manifest["files"]) == ["a", "sub/b"]
    assert manifest["about"] == {"seed": 3}
    assert is_complete(described, "model")
    assert not is_complete(described, "audit")


def test_every_single_byte_counts(described: Path) -> None:
    """Any bit flipped in any listed file, a cut or a missing one is found, and the file is named."""
    for name in ("a", "sub/b"):
        path = described / name
        content = path.read_bytes()
        for bit in range(8):
            path.write_bytes(bytes([content[0] ^ (1 << bit)]))
            with pytest.raises(IntegrityError, match=f"{name} is not the file"):
                verify_manifest(described)
        path.write_bytes(b"")
        assert not is_complete(described)
        path.unlink()
        with pytest.raises(IntegrityError, match=f"{name} is missing"):
            verify_manifest(described)
        path.write_bytes(content)
    assert is_complete(described)


def test_directory_without_manifest_is_incomplete(described: Path) -> None:
    """A run that was killed before its end is not trusted."""
    (described / MANIFEST).unlink()
    with pytest.raises(IntegrityError, match="incomplete"):
        verify_manifest(described)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {}}, "kind": 1}']
)
def test_damaged_manifest_is_refused(content: str, described: Path) -> None:
    """A manifest that is cut or of another form is an integrity error, not a crash."""
    (described / MANIFEST).write_text(content)
    with pytest.raises(IntegrityError, match="damaged"):
        verify_manifest(described)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/../../outside", "a\x00b", "link"])
def test_manifest_cannot_point_outside(name: str, described: Path) -> None:
    """A hostile manifest reads no file beyond its directory, neither by dots, nor by a link."""
    outside = described.parent / "outside"
    outside.write_text("x")
    (described / "link").symlink_to(outside)
    manifest = json.loads((described / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": files.file_digest(outside), "bytes": 1}
    (described / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="outside its directory"):
        verify_manifest(described)


def test_subfolders_with_a_manifest_answer_for_themselves(described: Path) -> None:
    """A checkpoint inside a run is described by its own manifest, so that a run's stays valid when checkpoints go."""
    write_text(described / "checkpoint" / "c", "3")
    write_manifest(described / "checkpoint", "checkpoint")
    write_manifest(described, "model")
    assert sorted(verify_manifest(described)["files"]) == ["a", "sub/b"]


def test_killed_writer_leaves_old_or_new(tmp_path: Path) -> None:
    """A process killed without warning while it rewrites a file leaves one of the contents that were ever complete."""
    path = tmp_path / "f"
    write_text(path, "0" * 100_000)
    script = (
        "import sys, itertools\nfrom verify.io.files import write_text\n"
        "[write_text(sys.argv[1], str(n % 10) * 100_000) for n in itertools.count()]"
    )
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)])
        started = path.stat().st_ino
        deadline = time.monotonic() + 60
        while path.stat().st_ino == started and time.monotonic() < deadline:
            time.sleep(0.005)
        rewritten = path.stat().st_ino != started
        process.send_signal(signal.SIGKILL)
        assert (rewritten, process.wait()) == (True, -signal.SIGKILL), "killed while it wrote"
        content = path.read_text()
        assert len(content) == 100_000
        assert len(set(content)) == 1


def test_new_output_never_overwrites(tmp_path: Path) -> None:
    """A new or empty directory is taken, another's is refused unless it is recognised as the same run cut off."""
    assert new_output(tmp_path / "a" / "b").is_dir()
    assert new_output(tmp_path / "a" / "b").is_dir()
    write_text(tmp_path / "a" / "b" / "x", "1")
    with pytest.raises(InputError, match="already holds another run"):
        new_output(tmp_path / "a" / "b")
    assert new_output(tmp_path / "a" / "b", resumable=lambda folder: (folder / "x").exists()) == tmp_path / "a" / "b"
    with pytest.raises(InputError, match="is a file"):
        new_output(tmp_path / "a" / "b" / "x")


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """A folder in use is refused until its user ends, well or not, and nothing is left in it."""
    with only_writer(tmp_path):
        with pytest.raises(InputError, match="another run works in"), only_writer(tmp_path):
            pass
        with pytest.raises(InputError, match="another run works in"), only_writer(tmp_path):
            pass
    with pytest.raises(KeyError), only_writer(tmp_path):
        raise KeyError
    with only_writer(tmp_path):
        assert not list(tmp_path.iterdir())


def test_where_folders_have_no_locks_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems, where a lock needs a file that is open for writing."""

    def refused(*_: object) -> None:
        raise OSError(errno.EBADF, "no locks here")

    monkeypatch.setattr("fcntl.flock", refused)
    with only_writer(tmp_path), only_writer(tmp_path):
        pass
