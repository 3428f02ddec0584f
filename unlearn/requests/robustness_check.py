"""What robustness probes found on the new weights: checked against them, and kept in the batch.

Certificate and report both read the kept file, so that they say the same, also when a batch is closed again without naming it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.io.files import write_text
from verify.schema.evidence import Evidence
from verify.schema.robustness import Robustness

ROBUSTNESS = "robustness.json"


def matched(folder: Path, made: Sequence[Mapping[str, Any]], files: Sequence[Path]) -> dict[str, Robustness]:
    """What `verify-unlearning probe` wrote, by the digest of the weights it was measured on.

    Args:
        folder: of the batch.
        made: the ledger's entries of the deployed models.
        files: one for each model at most.

    Raises:
        InputError: a file is no such result, is about none of these weights or about other records, or two are about the same.
    """
    found: dict[str, Robustness] = {}
    for file in files:
        one = Robustness.load(file)
        if one.weights not in {entry["after"] for entry in made}:
            names = ", ".join(f"{entry['after'][:16]} ({entry['name']})" for entry in made) or "none"
            raise InputError(
                f"{file} was measured on weights {one.weights[:16]}, which this deletion did not make. New weights are: {names}. "
                "Probe those with `verify-unlearning probe`, or leave --robustness out."
            )
        if one.weights in found:
            raise InputError(f"two of the files named with --robustness are about weights {one.weights[:16]}. Name one.")
        audits = (entry["audit"] for entry in made if entry["after"] == one.weights)
        one.require_same(Evidence.load(folder / str(next(audits)) / "evidence.json"), str(file))
        found[one.weights] = one
    return found


def keep(folder: Path, made: Sequence[Mapping[str, Any]], found: Mapping[str, Robustness], signed: Path) -> None:
    """Keep the results beside the audits of the same weights.

    Args:
        folder: of the batch.
        made: the ledger's entries of the deployed models.
        found: as `matched` gives it.
        signed: the batch's certificate, which is written once: what it does not hold cannot come into it.

    Raises:
        InputError: the certificate is there already, without these results.
    """
    for entry in made:
        one = found.get(entry["after"])
        if one is None:
            continue
        path = place_in(folder, entry)
        if path.exists() and Robustness.load(path) == one:
            continue
        if signed.exists():
            raise InputError(
                f"{signed} was signed without this result for {entry['name']}, and a certificate is written once. Leave "
                "--robustness out, or move the certificate away and close again with the keys."
            )
        write_text(path, one.text())


def kept(folder: Path, entry: Mapping[str, Any]) -> Path | None:
    """The result that is kept for a deployed model, or None."""
    path = place_in(folder, entry)
    return path if path.exists() else None


def place_in(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Where it is kept."""
    return (folder / str(entry["audit"])).parent / ROBUSTNESS
