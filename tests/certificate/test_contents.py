"""What a certificate says: everything that was asked and found, nothing about a person, and one pair of statements per model."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from certificates import broken, check, record_about, rewritten, says
from deletions import model_of

from verify import InputError
from verify.certificate.check import read_claims
from verify.certificate.statements import auditor_statement, load_signer, operator_statement, sign, write_certificate
from verify.schema.evidence import Evidence
from verify.schema.parts import Value
from verify.schema.robustness import Robustness, Treated


def robustness_of(weights: str, records: str) -> Robustness:
    """What a probe of these weights might have found."""
    rho = Value(value=0.02, low=-0.05, high=0.09, n=4, level=0.9)
    row = Treated(probe="q", treatment="int8", original=1.0, target=3.0, references=3.0, residual=rho, accused=False, records=0)
    return Robustness(
        weights=weights, forget=4, forget_digest=records, margin=0.1, alpha=0.05, treated=(row,), recovery=None, retain=None
    )


def statements(path: Path) -> list[dict[str, Any]]:
    return [json.loads(base64.b64decode(envelope["payload"])) for envelope in json.loads(path.read_text())["envelopes"]]


def test_everything_that_the_rules_ask_for_is_in_it(house: dict[str, Path]) -> None:
    """Request, places, method, settings and seeds, digests, threat models, attacks not run, controls, tiers, limits: all signed."""
    operator, auditor = (statement["predicate"] for statement in statements(house["certificate.json"]))
    request = operator["runDetails"]["metadata"]["request"]
    assert request == json.loads(house["deletion"].read_text())
    assert request["requests"][0]["received"] == "2026-11-03"
    assert request["data"][0]["digest"] == "1" * 64
    assert request["models"][0]["options"]["seed"] == 7
    assert request["residual"][0]["reason"]
    assert request["limits"]
    assert request["environment"]["unlearn-verify"]
    assert operator["buildDefinition"]["externalParameters"]["method"] == "rollback"
    found = auditor["annotations"]
    threats = {threat["attack"]: threat for threat in found["evidence"]["threats"]}
    assert threats["loss"]["sees"] == ["the record, and the probability that the model gives to each of its tokens"]
    assert any("weights" in sight for sight in threats["gradient_norm"]["sees"])
    assert {"attack": "verbatim", "reason": "not requested"} in found["attacks_not_run"]
    assert {entry["attack"] for entry in found["attacks_not_run"]} | {"loss"} == set(threats)
    for name in ("gates", "tiers", "tests", "utility", "not_shown", "scope", "settings", "environment"):
        assert name in found["evidence"], name


def test_robustness_is_signed_only_for_the_same_weights_and_records(house: dict[str, Path], tmp_path: Path) -> None:
    """A probe of the audited model goes in as it stands; of another model, of other records, or another file, it is refused."""
    evidence = Evidence.load(house["audit"] / "evidence.json")
    weights = next(model.weights for model in evidence.models if model.role == "target")
    records = evidence.set("forget").digest
    robustness_of(weights, records).save(tmp_path / "robustness.json")
    signed = auditor_statement(house["audit"], tmp_path / "robustness.json")["predicate"]["annotations"]["robustness"]
    assert signed["treated"][0]["treatment"] == "int8"
    for other, message in (
        (robustness_of("0" * 64, records), "was measured on weights 0000"),
        (robustness_of(weights, "0" * 64), "on other records than the audit's 4"),
    ):
        other.save(tmp_path / "other.json")
        with pytest.raises(InputError, match=message):
            auditor_statement(house["audit"], tmp_path / "other.json")
    with pytest.raises(InputError, match="Probe again"):
        auditor_statement(house["audit"], house["deletion"])


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about | {"name": "Zebedee Quillgate"},
        lambda about: about | {"requests": [about["requests"][0] | {"Zebedee Quillgate": 1}]},
        lambda about: about | {"requests": [about["requests"][0] | {"email": "z@example.org"}]},
        lambda about: about | {"data": [about["data"][0] | {"text": "Zebedee lives at Quillgate"}]},
        lambda about: about | {"requests": [about["requests"][0] | {"received": "Zebedee"}]},
    ],
)
def test_fields_outside_the_schema_are_not_signed(house: dict[str, Path], change: Any) -> None:
    """A name, an address or a text beside the schema's fields is refused, and the refusal does not repeat it."""
    about = change(json.loads(record_about(house).text()))
    with pytest.raises(InputError, match="not a deletion record") as caught:
        operator_statement(house["after"], house["before"], about)
    assert "Zebedee" not in str(caught.value)
    assert "example.org" not in str(caught.value)


def test_a_record_of_another_deletion_is_not_signed(house: dict[str, Path]) -> None:
    """The operator's facts must speak of the weights that they are signed for."""
    evidence = Evidence.load(house["audit"] / "evidence.json")
    other = record_about(house).model_copy(update={"models": (model_of(evidence, after="9" * 64),)})
    with pytest.raises(InputError, match="names no model that went from"):
        operator_statement(house["after"], house["before"], json.loads(other.text()))
    with pytest.raises(InputError, match="is not JSON"):
        operator_statement(house["after"], house["before"], {"schema": {1, 2}})


def test_an_edited_deletion_record_is_named(house: dict[str, Path], tmp_path: Path) -> None:
    """The file beside the certificate is compared field by field; the first that differs is named, its content is not."""
    assert not broken(check(house, deletion=house["deletion"]))
    content = json.loads(house["deletion"].read_text())
    content["requests"][1]["reason"] = "Zebedee did not pay"
    content["models"][0]["seconds"] = 12
    path = tmp_path / "deletion.json"
    path.write_text(json.dumps(content))
    text = broken(check(house, deletion=path))
    assert "requests.1.reason differs" in text
    assert "Zebedee" not in text
    path.write_text("{}")
    assert "its fields" in broken(check(house, deletion=path))


def test_several_models_in_one_certificate(house: dict[str, Path], tmp_path: Path) -> None:
    """One pair of statements per model; without one model's pair the certificate does not hold, and the worst word counts."""
    second = "5" * 64

    def two_models(found: list[Any]) -> None:
        more = json.loads(json.dumps(found))
        for statement in more:
            statement["subject"][0]["digest"]["sha256"] = second
        says(more[1], "INCONCLUSIVE")
        target = next(model for model in more[1]["predicate"]["annotations"]["evidence"]["models"] if model["role"] == "target")
        target["weights"] = second
        request = found[0]["predicate"]["runDetails"]["metadata"]["request"]
        request["models"] += [request["models"][0] | {"after": second, "verdict": "INCONCLUSIVE", "verdict_phrase": "INCONCLUSIVE"}]
        more[0]["predicate"]["runDetails"]["metadata"]["request"] = request
        found += more

    both = check(house, rewritten(house, tmp_path / "two.json", two_models), model=house["after"])
    assert both.holds, broken(both)
    assert set(both.verdicts.values()) == {"NOT_TESTABLE", "INCONCLUSIVE"}
    assert both.verdict == "NOT_TESTABLE"

    def one_model_short(found: list[Any]) -> None:
        two_models(found)
        del found[2:]

    short = check(house, rewritten(house, tmp_path / "one.json", one_model_short))
    assert f"model {second[:16]} of the deletion record: it was replaced, but there is no valid" in broken(short)


def test_operator_and_auditor_must_agree_on_the_verdict(house: dict[str, Path], tmp_path: Path) -> None:
    """A record that reports a better word than the audit found does not hold, though both signatures do."""

    def better(found: list[Any]) -> None:
        found[0]["predicate"]["runDetails"]["metadata"]["request"]["models"][0]["verdict"] = "EQUIVALENT_WITHIN"

    text = broken(check(house, rewritten(house, tmp_path / "better.json", better)))
    assert "the operator reports EQUIVALENT_WITHIN, the auditor found NOT_TESTABLE" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"before": "e" * 64}, "the operator reports eeee"),
        ({"audit_digest": "f" * 64}, "the auditor signed the audit"),
        (
            {"verdict_phrase": "NOT_TESTABLE(rho = 0.01)"},
            "NOT_TESTABLE(rho = 0.01), the auditor found NOT_TESTABLE",
        ),
        ({"method": "retrain"}, "the operator reports retrain, the provenance names rollback"),
    ],
)
def test_the_record_says_what_the_statements_say(
    house: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Weights, audit, margin and method of a deletion record are those of the statements beside it, or the check says which not."""

    def otherwise(found: list[Any]) -> None:
        found[0]["predicate"]["runDetails"]["metadata"]["request"]["models"][0] |= changes

    assert said in broken(check(house, rewritten(house, tmp_path / "otherwise.json", otherwise)))


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({"basis": "audit"}, "EQUIVALENT_WITHIN", None),
        ({"basis": "audit"}, "INCONCLUSIVE", "on its audit, which found INCONCLUSIVE; only EQUIVALENT_WITHIN"),
        ({"basis": "audit"}, "NOT_FORGOTTEN", "only EQUIVALENT_WITHIN"),
        ({"basis": "exact rebuild"}, "INCONCLUSIVE", None),
        ({"basis": "exact rebuild"}, "NOT_FORGOTTEN", "but its audit found NOT_FORGOTTEN"),
        ({"basis": "exact rebuild", "exactness": None, "method": "npo"}, "INCONCLUSIVE", "but npo is not an exact method"),
        (
            {"basis": "exact rebuild", "method": "auto", "facts": {"rungs": [{"method": "npo"}]}},
            "INCONCLUSIVE",
            "but auto is not an exact method",
        ),
        ({"basis": "exact rebuild", "method": "auto", "facts": {"rungs": [{"exactness": "bits"}]}}, "INCONCLUSIVE", None),
    ],
)
def test_what_a_model_goes_into_service_on(
    house: dict[str, Path], tmp_path: Path, changes: dict[str, Any], verdict: str, said: str | None
) -> None:
    """Its audit where that certifies, an exact rebuild where no audit objects, and nothing else, whoever signed it."""

    phrase = f"{verdict}(rho = 0.1, alpha = 0.05; exact text, mean loss)" if verdict == "EQUIVALENT_WITHIN" else verdict

    def claimed(found: list[Any]) -> None:
        model = found[0]["predicate"]["runDetails"]["metadata"]["request"]["models"][0]
        model |= changes | {"verdict": verdict, "verdict_phrase": phrase}
        found[0]["predicate"]["buildDefinition"]["externalParameters"]["method"] = model["method"]
        says(found[1], verdict, model)

    text = broken(check(house, rewritten(house, tmp_path / "claimed.json", claimed)))
    assert (said in text) if said else text == ""


def test_what_cannot_be_signed_is_said(house: dict[str, Path], tmp_path: Path) -> None:
    """An integer that JSON cannot carry is refused before anything is written."""
    with pytest.raises(InputError, match="cannot be signed"):
        sign({"seed": 2**60}, load_signer(house["key"]))
    with pytest.raises(InputError, match="written once"):
        write_certificate(house["certificate.json"], [])


def test_claims_are_read_without_a_key(house: dict[str, Path]) -> None:
    """A report can name the signers; nothing is said to be verified."""
    claims = read_claims(house["certificate.json"])
    assert [signer.role for signer in claims.signers] == ["operator", "auditor"]
    assert claims.requests[0]["ledger_head"] == "ab" * 32
    with pytest.raises(InputError):
        read_claims(house["deletion"])
