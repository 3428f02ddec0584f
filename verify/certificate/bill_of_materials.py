"""Bill of materials of a deletion (CycloneDX 1.6, ML-BOM): model, training data and certificate, linked by their digests.

Tools that keep an inventory of models read it; what was shown about the model is in the certificate that it names.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verify.certificate.check import Checked, read_claims
from verify.errors import InputError
from verify.io.files import file_digest, write_text

SPECIFICATION = "1.6"


def bill_of_materials(certificate: str | Path, checked: Checked) -> dict[str, Any]:
    """Return the bill of materials of the models of a certificate, as JSON.

    Args:
        certificate: the certificate.
        checked: what its check found.

    Raises:
        InputError: the certificate does not hold, or was signed without a deletion record, which names models and data.
    """
    if not checked.holds:
        wrong = next(finding for finding in checked.findings if not finding.holds)
        raise InputError(f"{certificate} does not hold ({wrong.what}), so that nothing is derived from it. Run `check` on it.")
    record = next((request for request in read_claims(certificate).requests if request), None)
    if record is None:
        raise InputError(
            f"{certificate} was signed without a deletion record, which names models and data. Certify with --deletion."
        )
    digest = file_digest(certificate)
    # One name per data set: a file that several searches saw with the same content is one component.
    data = {place["digest"]: _data_set(place) for place in record["data"]}
    models = [_model(entry, certificate, digest, checked) for entry in record["models"]]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:sha256:{digest}')}",
        "version": 1,
        "metadata": {"timestamp": record["created"], "properties": [_property("ledger head", record["ledger_head"])]},
        "components": [*models, *data.values()],
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": [entry["bom-ref"] for entry in data.values()]} for model in models],
    }


def write_bill_of_materials(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a bill of materials, atomically; an existing file is never replaced.

    Raises:
        InputError: the file exists.
    """
    if Path(path).exists():
        raise InputError(f"{path} exists. Name a new file with --output.")
    write_text(path, json.dumps(content, indent=2) + "\n")


def _model(entry: Mapping[str, Any], certificate: str | Path, digest: str, checked: Checked) -> dict[str, Any]:
    """Describe a replaced model: its weights, those before it, how it was made, what was found, and the certificate."""
    after, again = str(entry["after"]), checked.reexecutions.get(str(entry["after"]))
    found = {"verdict": checked.phrases.get(after), "re-execution": None if again is None else again.phrase}
    properties = [_property("method", entry["method"]), _property("basis", entry.get("basis", "audit"))]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{after}",
        "name": entry["name"],
        "version": after[:16],
        "hashes": [_hash(after)],
        "pedigree": {
            "ancestors": [
                {
                    "type": "machine-learning-model",
                    "bom-ref": f"model:{entry['before']}",
                    "name": f"{entry['name']} before deletion",
                    "hashes": [_hash(entry["before"])],
                }
            ]
        },
        "externalReferences": [{"type": "attestation", "url": Path(certificate).name, "hashes": [_hash(digest)]}],
        "properties": [*properties, *(_property(name, phrase) for name, phrase in found.items() if phrase is not None)],
    }


def _data_set(place: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a training file as it was searched; whether rows were removed from it since, the certificate says."""
    return {
        "type": "data",
        "bom-ref": f"data:{place['digest']}",
        "name": place["file"],
        "description": "training file as it was searched for the records of the requests",
        "hashes": [_hash(place["digest"])],
        "data": [{"type": "dataset", "name": place["file"]}],
        "properties": [_property("records found", str(place["records"]))],
    }


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"unlearn-verify:{name}", "value": value}
