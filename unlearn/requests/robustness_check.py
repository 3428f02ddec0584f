"""Check robustness results against the new weights, and store them in the batch.

Certificate and report both read the stored file, so they agree even if a batch is closed again without naming it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.io.files import write_text
from verify.schema.evidence import Evidence
from verify.schema.robustness import Robustness

ROBUSTNESS = "robustness.json"


def match_to_models(folder: Path, made: Sequence[Mapping[str, Any]], files: Sequence[Path]) -> dict[str, Robustness]:
    """Load results of `verify-unlearning probe`, by the digest of the weights on which they were measured.

    Args:
        folder: the batch's folder.
        made: the ledger's entries of the deployed models.
        files: result files, at most one for each model.

    Raises:
        InputError: a file is not such a result, is about other weights or other records, or two are about the same weights.
    """
    found: dict[str, Robustness] = {}
    for file in files:
        result = Robustness.load(file)
        if result.weights not in {entry["after"] for entry in made}:
            names = ", ".join(f"{entry['after'][:16]} ({entry['name']})" for entry in made) or "none"
            raise InputError(
                f"{file} was measured on weights {result.weights[:16]}, which this deletion did not make. New weights: {names}. "
                "Probe those with `verify-unlearning probe`, or leave --robustness out."
            )
        if result.weights in found:
            raise InputError(f"two of the files named with --robustness are about weights {result.weights[:16]}. Name one.")
        audit = next(entry.get("audit") for entry in made if entry["after"] == result.weights)
        if audit is None:
            raise InputError(
                f"{file} is about weights that were executed again and not audited, so that no audit's statement could carry it. "
                "Leave --robustness out, or plan with --references, so that an audit is made as well."
            )
        result.require_same(Evidence.load(folder / str(audit) / "evidence.json"), str(file))
        found[result.weights] = result
    return found


def store(folder: Path, made: Sequence[Mapping[str, Any]], found: Mapping[str, Robustness], signed: Path) -> None:
    """Store the results beside the audits of the same weights.

    Args:
        folder: the batch's folder.
        made: the ledger's entries of the deployed models.
        found: results from `match_to_models`.
        signed: path of the batch's certificate, which is written once, so nothing can be added to it.

    Raises:
        InputError: the certificate exists and lacks these results.
    """
    for entry in made:
        result = found.get(entry["after"])
        if result is None:
            continue
        path = stored_path(folder, entry)
        if path.exists() and Robustness.load(path) == result:
            continue
        if signed.exists():
            raise InputError(
                f"{signed} was signed without this result for {entry['name']}, and a certificate is written once. Leave "
                "--robustness out, or move the certificate away and close again with the keys."
            )
        write_text(path, result.text())


def stored_for(folder: Path, entry: Mapping[str, Any]) -> Path | None:
    """Return the path of the stored result of a deployed model, or None."""
    path = stored_path(folder, entry)
    return path if path.exists() else None


def stored_path(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Return the path where the result of a deployed model belongs."""
    return (folder / str(entry["folder"])).parent / ROBUSTNESS
