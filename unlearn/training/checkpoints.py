"""Working folders of training runs: each belongs to one run, identified by a digest of its configuration and inputs."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from unlearn.training import distributed
from unlearn.training.options import TrainingOptions
from verify.errors import InputError
from verify.io.files import MANIFEST, is_complete, new_output, only_writer, read_json, write_json

WORK = "work"
"""Subfolder for checkpoints of an unfinished run; deleted when the run ends, since they may contain what is being removed."""
WORK_FILE = "run.json"


@contextmanager
def claimed_output(output_dir: str | Path) -> Iterator[Path]:
    """Create a folder for a result, or accept one whose run was interrupted, and keep other processes out within a `with` block.

    Of several processes of one run, the main one claims it. A second run in the same folder would go on from the first one's
    checkpoints and write into its log.

    Raises:
        InputError: the folder contains something else, lies in that of a finished model, or another run is at work in it.
    """
    output = Path(output_dir)
    with ExitStack() as held:
        if distributed.is_main():
            if (above := next((one for one in output.resolve().parents if is_complete(one, "model")), None)) is not None:
                raise InputError(
                    f"--output {output} lies in the folder of a finished model, {above}, whose manifest lists every file. Give a "
                    "folder outside of it."
                )
            new_output(output, resumable=_is_unfinished)
            held.enter_context(only_writer(output))
            new_output(output, resumable=_is_unfinished)  # again, since another run may have ended there just before
        distributed.wait()
        yield output


def _is_unfinished(output: Path) -> bool:
    """Return whether a run was interrupted in a folder."""
    return (output / WORK).is_dir() and not (output / MANIFEST).exists()


def empty_work(output: Path) -> None:
    """Empty a run's working folder. The folder itself is kept until the manifest is written, since it marks an unfinished run."""
    for path in (output / WORK).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def keep_checkpoints(work_dir: Path, output: Path) -> None:
    """Move a run's checkpoints beside its model, for exact deletion later; those left by an interrupted run are replaced."""
    for folder in work_dir.glob("checkpoint-*"):
        shutil.rmtree(output / folder.name, ignore_errors=True)  # `move` into an existing folder would nest it
        shutil.move(folder, output / folder.name)


def run_digest(what: str, options: TrainingOptions, fingerprints: Sequence[str], model_digest: str) -> str:
    """Compute the SHA-256 of everything that determines a run's result: method, options, records in order, starting weights."""
    # Part of files on disk: a change of this list or of an option's name makes unfinished runs unknown.
    content = [what, asdict(options), list(fingerprints), model_digest]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_work(work_dir: Path, what: str, options: TrainingOptions, fingerprints: Sequence[str], model_digest: str) -> None:
    """Claim a working folder for a run, or accept it if the same run was interrupted there.

    Args:
        work_dir: the folder.
        what: the method with its parameters.
        options: training settings.
        fingerprints: fingerprints of the records, in order.
        model_digest: digest of the starting weights.

    Raises:
        InputError: the folder contains another run, or something else.
    """
    digest = run_digest(what, options, fingerprints, model_digest)
    file = work_dir / WORK_FILE
    if file.exists() and read_json(file).get("run") != digest:
        raise InputError(
            f"{work_dir} holds an unfinished run with other settings, records or weights. "
            "Run that command again to finish it, or give a new --output."
        )
    if distributed.is_main():
        new_output(work_dir, resumable=lambda folder: (folder / WORK_FILE).exists())
        write_json(file, {"run": digest})
    distributed.wait()  # a file written here by another process first would look like somebody else's
