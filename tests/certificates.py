"""A whole certificate with everything around it, and ways to spoil it."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deletions import NO_AUDIT, model_of, proof_about, record_of

from verify import Settings, audit
from verify.certificate.check import Checked, check_certificate
from verify.certificate.claims import RESULTS
from verify.certificate.statements import (
    auditor_statement,
    auditor_statements,
    load_public_key,
    load_signer,
    make_key,
    operator_statement,
    sign,
    write_certificate,
)
from verify.io.files import write_manifest
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.schema.channels import NEEDED_GATES, channels_asked
from verify.schema.deletion_record import DeletionRecord, ReexecutedModel
from verify.schema.evidence import Evidence
from verify.schema.reexecution import Reexecution

FORGET = [{"example_id": f"r{n}", "prompt": f"Where is Zebedee {n}?", "completion": f"At Quillgate {n * 3}."} for n in range(4)]
SETTINGS = Settings(attacks=("loss",))


def build_house(model_dir: Path, tokenizer: Any, root: Path) -> dict[str, Path]:
    """A model before and after with manifests, an audit, a deletion record, two key pairs and the certificate."""
    import torch

    paths = {name: root / name for name in ("before", "after", "audit", "key", "other", "certificate.json")}
    for name, shift in (("before", 0.0), ("after", 0.01)):
        loaded = load_model(model_dir)
        with torch.no_grad():
            next(loaded.model.parameters()).add_(shift)
        loaded.model.save_pretrained(paths[name])
        tokenizer.save_pretrained(paths[name])
        write_manifest(
            paths[name], "model", {"method": "rollback", "parameters": {"beta": 0.1}, "weights": weights_digest(loaded.model)}
        )
    audit(paths["after"], paths["before"], forget_set=FORGET, output_dir=paths["audit"], settings=SETTINGS)
    for name in ("key", "other"):
        make_key(paths[name])
    signer = load_signer(paths["key"])
    about = json.loads(record_about(paths).text())
    (root / "deletion.json").write_text(json.dumps(about, indent=2))
    paths["deletion"] = root / "deletion.json"
    statements = operator_statement(paths["after"], paths["before"], about), auditor_statement(paths["audit"])
    write_certificate(paths["certificate.json"], [sign(statement, signer) for statement in statements])
    return paths


def record_about(paths: dict[str, Path], **changes: Any) -> DeletionRecord:
    """A deletion record that speaks of the house's models: one in service as an exact rebuild, whose audit had no references."""
    evidence = Evidence.load(paths["audit"] / "evidence.json")
    return record_of(evidence, models=(model_of(evidence, basis="exact rebuild"),), **changes)


def proof_of(house: dict[str, Path], segments: int = 3, sampled: int | None = None, **changes: Any) -> Reexecution:
    """A proof about the house's model after deletion and its four forget records."""
    return proof_about(Evidence.load(house["audit"] / "evidence.json"), segments, sampled, **changes)


def certified(
    house: dict[str, Path], folder: Path, proof: Reexecution, *, audit: bool = True, about: dict[str, Any] | None = None
) -> Path:
    """A certificate of the house's model with a re-execution, beside its audit or alone; the proof is `proof.json` beside it.

    Args:
        house: the house.
        folder: where certificate and proof go.
        proof: the proof.
        audit: whether the audit is signed, too.
        about: changes of the deletion record's model; None signs no deletion record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    proof.save(folder / "proof.json")
    record = None
    if about is not None:
        evidence = Evidence.load(house["audit"] / "evidence.json")
        silent = {} if audit else NO_AUDIT
        shown = {"basis": "re-execution", "reexecution": ReexecutedModel.of(folder / "proof.json"), **silent}
        record = json.loads(record_of(evidence, models=(model_of(evidence, **(shown | about)),)).text())
    statements = auditor_statements(house["audit"] if audit else None, proof=folder / "proof.json")
    signer = load_signer(house["key"])
    whole = [operator_statement(house["after"], house["before"], record), *statements]
    write_certificate(folder / "certificate.json", [sign(statement, signer) for statement in whole])
    return folder / "certificate.json"


def rewritten(house: dict[str, Path], path: Path, change: Callable[[list[Any]], None], certificate: Path | None = None) -> Path:
    """A certificate whose statements were changed by `change(statements)` and then signed again by the right key."""
    signer = load_signer(house["key"])
    certificate = json.loads((certificate or house["certificate.json"]).read_text())
    statements = [json.loads(base64.b64decode(envelope["payload"])) for envelope in certificate["envelopes"]]
    change(statements)
    path.write_text(json.dumps(certificate | {"envelopes": [sign(statement, signer) for statement in statements]}))
    return path


def about(evidence: Evidence, change: Callable[[dict[str, Any]], None]) -> Callable[[list[Any]], None]:
    """Let the auditor's statement be about this audit of the house's models, changed, and the operator report what the auditor
    signs."""

    def rewrite(found: list[Any]) -> None:
        request = found[0]["predicate"]["runDetails"]["metadata"]["request"]
        weights = {"original": request["models"][0]["before"], "target": request["models"][0]["after"]}
        own = {model.role: model.weights for model in evidence.models}
        kept = evidence.model_dump(mode="json", by_alias=True, exclude={"accused", "figures", "duration_seconds", "weak"})
        for model in kept["models"]:
            model["weights"] = weights.get(model["role"], model["weights"])
        if evidence.level_table is not None and evidence.level_table.original == own["original"]:
            kept["level_table"]["original"] = weights["original"]
        predicate = found[1]["predicate"]
        predicate["result"] = RESULTS[evidence.verdict]
        annotations = predicate["annotations"]
        annotations |= {"verdict": evidence.verdict, "records_accused": len(evidence.accused)}
        annotations |= {"asked": list(channels_asked(evidence.channels)), "evidence": kept | {"subjects": len(evidence.subjects)}}
        request["records"] = evidence.set("forget").records
        request["data"] = [request["data"][0] | {"records": request["records"]}]
        request["registration"] = None if evidence.registration is None else evidence.registration.digest
        model = request["models"][0]
        model |= {"verdict": evidence.verdict, "verdict_phrase": evidence.verdict_phrase, "basis": "audit"}
        model["tested_by"] = list(evidence.tiers)
        change(annotations)

    return rewrite


def says(statement: dict[str, Any], word: str, model: dict[str, Any] | None = None) -> None:
    """Let an auditor's statement say another word, with references, tests and validity checks that fit it.

    Args:
        statement: the statement.
        word: the verdict.
        model: the deletion record's model, which is to report what could accuse.
    """
    predicate = statement["predicate"]
    predicate["result"] = RESULTS[word]
    evidence = predicate["annotations"]["evidence"]
    predicate["annotations"]["verdict"] = evidence["verdict"] = word
    evidence["tests"] = [
        {"name": name, "question": "?", "fired": name.startswith("C"), "quantities": []} for name in ("C1", "C2", "A1", "A2")
    ]
    gate = {"claims": ["record"], "blocks": "NOT_TESTABLE", "reason": "?", "value": None}
    evidence["gates"] = [gate | {"name": name, "passed": word != "NOT_TESTABLE"} for name in NEEDED_GATES]
    if model is not None:
        evidence["tiers"] = model["tested_by"] = ["retrained references"]
        evidence["accused_by"] = evidence["tiers"] if word == "NOT_FORGOTTEN" else []
        target = next(one for one in evidence["models"] if one["role"] == "target")
        evidence["models"] += [
            target | {"label": f"reference {number}", "role": "reference", "weights": f"{number}" * 64} for number in (1, 2, 3)
        ]


def check(house: dict[str, Path], path: Path | None = None, key: str = "key", **beside: Any) -> Checked:
    """Check with one of the two public keys."""
    public = load_public_key(house[key].with_name(f"{key}.pub"))
    return check_certificate(path or house["certificate.json"], [public], **beside)


def broken(checked: Checked) -> str:
    """Everything that did not verify, in one line."""
    return " | ".join(f"{finding.what}: {finding.detail}" for finding in checked.findings if not finding.holds)


def edited(house: dict[str, Path], tmp_path: Path, change: Any) -> Path:
    """The certificate with its content changed by `change(certificate)`."""
    content = json.loads(house["certificate.json"].read_text())
    change(content)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    return path


def edit_payload(number: int, old: str, new: str) -> Any:
    """A change of one statement's text, under the old signature."""

    def change(content: dict[str, Any]) -> None:
        payload = base64.b64decode(content["envelopes"][number]["payload"]).decode()
        assert old in payload
        content["envelopes"][number]["payload"] = base64.b64encode(payload.replace(old, new).encode()).decode()

    return change
