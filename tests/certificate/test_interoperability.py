"""Certificates in the formats of others: their own libraries read what is written here."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from certificates import certified, check, edited, proof_of
from securesystemslib.dsse import Envelope

import verify.cli.main
from verify.certificate.bill_of_materials import bill_of_materials
from verify.certificate.signing import PROVENANCE, REEXECUTION, STATEMENT_TYPE, TEST_RESULT, load_public_key
from verify.errors import InputError


@pytest.fixture(scope="module")
def proved(house: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with all three kinds of statements."""
    return certified(house, tmp_path_factory.mktemp("proved"), proof_of(house), about={})


def test_its_envelopes_are_those_of_dsse(house: dict[str, Path], proved: Path) -> None:
    """securesystemslib verifies each with the public key, and none after a change."""
    public = load_public_key(f"{house['key']}.pub")
    envelopes = [Envelope.from_dict(content) for content in json.loads(proved.read_text())["envelopes"]]
    assert [set(envelope.verify([public], 1)) for envelope in envelopes] == [{public.keyid}] * 3
    envelopes[0].payload += b" "
    with pytest.raises(Exception, match="Accepted signatures do not match threshold"):
        envelopes[0].verify([public], 1)


def test_its_statements_are_those_of_in_toto(proved: Path) -> None:
    """The in-toto library parses and validates each statement, with the predicates that in-toto and SLSA define."""
    pytest.importorskip("in_toto_attestation", reason="the in-toto library is not installed (pip install in-toto-attestation)")
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    contents = [json.loads(base64.b64decode(one["payload"])) for one in json.loads(proved.read_text())["envelopes"]]
    kinds: dict[str, Any] = {}
    for content in contents:
        parsed = Statement.copy_from_pb(ParseDict(content, statement_pb2.Statement()))
        parsed.validate()
        assert parsed.pb.type == STATEMENT_TYPE
        assert parsed.pb.subject[0].digest["sha256"] == content["subject"][0]["digest"]["sha256"]
        kinds[parsed.pb.predicate_type] = content["predicate"]
    assert set(kinds) == {PROVENANCE, TEST_RESULT, REEXECUTION}
    # Consumers ignore what a predicate's definition does not name: our annotations, the deletion record.
    made = ParseDict(kinds[PROVENANCE], provenance_pb2.Provenance(), ignore_unknown_fields=True)
    assert made.build_definition.resolved_dependencies[0].name == "weights before deletion"
    tested = ParseDict(kinds[TEST_RESULT], test_result_pb2.TestResult(), ignore_unknown_fields=True)
    assert (tested.result, tested.configuration[0].name) == ("WARNED", "evidence.json")


def test_its_bill_of_materials_is_cyclonedx(house: dict[str, Path], proved: Path, tmp_path: Path) -> None:
    """The CycloneDX library reads it; model, data and certificate are linked by the digests that the certificate has."""
    pytest.importorskip("cyclonedx", reason="the CycloneDX library is not installed (pip install cyclonedx-python-lib)")
    from cyclonedx.model import ExternalReferenceType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import ComponentType

    path = tmp_path / "bom.json"
    words = ["bom", str(proved), "--key", f"{house['key']}.pub", "--output", str(path)]
    assert verify.cli.main.main(words) == 0
    assert verify.cli.main.main(words) == 2, "a file is not replaced"
    bom = Bom.from_json(json.loads(path.read_text()))  # type: ignore[attr-defined]
    (model,) = (one for one in bom.components if one.type == ComponentType.MACHINE_LEARNING_MODEL)
    record = json.loads(base64.b64decode(json.loads(proved.read_text())["envelopes"][0]["payload"]))
    record = record["predicate"]["runDetails"]["metadata"]["request"]
    assert [one.content for one in model.hashes] == [record["models"][0]["after"]]
    assert [one.content for ancestor in model.pedigree.ancestors for one in ancestor.hashes] == [record["models"][0]["before"]]
    (attested,) = (one for one in model.external_references if one.type == ExternalReferenceType.ATTESTATION)
    assert str(attested.url) == "certificate.json"
    data = {one.content for part in bom.components if part.type == ComponentType.DATA for one in part.hashes}
    assert data == {place["digest"] for place in record["data"]}
    (links,) = (one for one in bom.dependencies if one.ref == model.bom_ref)
    assert {one.ref.value for one in links.dependencies} == {f"data:{digest}" for digest in data}


def test_no_bill_of_materials_without_a_certificate_that_holds(house: dict[str, Path], tmp_path: Path) -> None:
    """A certificate that does not verify, and one without a deletion record, list nothing."""
    cut = edited(house, tmp_path, lambda content: content["envelopes"].pop(1))
    with pytest.raises(InputError, match="does not hold"):
        bill_of_materials(cut, check(house, cut))
    silent = certified(house, tmp_path / "silent", proof_of(house))
    with pytest.raises(InputError, match="without a deletion record"):
        bill_of_materials(silent, check(house, silent))
