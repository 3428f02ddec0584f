"""PyPI's `verify` installs the same top-level name; a folder that holds both packages is refused, not half used."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import verify

OTHERS = ("__meta__.py", "base.py", "containers.py", "equality.py", "logic.py", "numbers.py", "runners.py", "types.py")
"""The modules of `verify` 1.1.1."""


def imported(folder: Path, files: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Import a `verify` that holds this package's `__init__.py` and these files."""
    package = folder / "verify"
    package.mkdir()
    shutil.copy(verify.__file__, package)
    for name in files:
        (package / name).touch()
    command = [sys.executable, "-c", "import verify"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": ""}, capture_output=True, text=True, check=False)


def test_a_mixed_folder_is_refused(tmp_path: Path) -> None:
    """The import fails with a sentence that says where, why and what to type."""
    done = imported(tmp_path, OTHERS)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ")
    assert str(tmp_path / "verify") in message
    assert "pip uninstall verify" in message


@pytest.mark.parametrize("files", [(), ("runners.py",), ("__meta__.py",), ("types.py", "base.py")])
def test_files_of_a_usual_name_are_not_refused(files: tuple[str, ...], tmp_path: Path) -> None:
    """A single module that happens to share a name is no clash."""
    done = imported(tmp_path, files)
    assert done.returncode == 0, done.stderr
