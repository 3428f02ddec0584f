"""Files of earlier versions, by rule 1 and, of a level table, by rule 3: they read, are written, and recompute as they were."""

import json
import shutil
from pathlib import Path

import pytest

from verify import summary
from verify.auditing.recompute import recompute
from verify.auditing.registration import Registration
from verify.certificate.check import check_certificate
from verify.certificate.statements import load_public_key
from verify.errors import InputError, RunError
from verify.judging.level_table_gates import BY_LEVEL
from verify.schema.evidence import SECOND_RULE, Evidence
from verify.schema.settings import Settings

OLD = Path(__file__).parents[1] / "old_evidence"
PHRASES = {
    "certified": (1, "EQUIVALENT_WITHIN(rho = 0.1, alpha = 0.05)"),
    "accused": (1, "NOT_FORGOTTEN (4 of 16 records)"),
    "by_table": (3, "NOT_FORGOTTEN (4 of 12 records; 1 subject; level table)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PHRASES)
def test_old_evidence_keeps_its_bytes_its_word_and_its_numbers(name: str) -> None:
    """Read and written again the file is the same to the byte, and every number and sentence follows from its scores."""
    path = OLD / name / "evidence.json"
    evidence = Evidence.load(path)
    assert evidence.text() == path.read_text()
    assert (evidence.settings.rule, evidence.verdict_phrase) == PHRASES[name]
    assert recompute(path.parent).text() == path.read_text()


def test_the_rule_of_a_level_table_decides_the_numbers(tmp_path: Path) -> None:
    """The same scores by rule 4 give other numbers, and the check of the controls by level; page 1 says what rule 3 did not ask."""
    old = OLD / "by_table"
    content = json.loads((old / "evidence.json").read_text())
    content["settings"]["rule"] = 4
    (tmp_path / "evidence.json").write_text(json.dumps(content))
    shutil.copy(old / "scores.parquet", tmp_path)
    with pytest.raises(RunError, match=r"evidence.json does not follow from scores.parquet: gates\[4\].reason, tests\[3\]"):
        recompute(tmp_path)
    said = "Not checked: whether the model treats hard controls as it treats easy ones; rule 3, by which this audit was made"
    assert said in summary(Evidence.load(old / "evidence.json"))


@pytest.mark.slow
def test_another_smallest_margin_is_called_that(tmp_path: Path) -> None:
    """No verdict depends on it, and earlier versions could put it too low; here none follows from the scores."""
    content = json.loads((OLD / "by_table" / "evidence.json").read_text())
    (tmp_path / "evidence.json").write_text(json.dumps(content | {"smallest_margin": 0.25}))
    shutil.copy(OLD / "by_table" / "scores.parquet", tmp_path)
    with pytest.raises(RunError, match=r"every number follows from scores.parquet but the smallest margin"):
        recompute(tmp_path)


@pytest.mark.slow
def test_rule_3_with_the_numbers_of_a_development_version_is_called_that(tmp_path: Path) -> None:
    """It says rule 3 and has the check by level of rule 4: nothing computes it again, and it is refused for what it is; evidence
    that was merely edited is refused as edited."""
    content = json.loads((OLD / "by_table" / "evidence.json").read_text())
    shutil.copy(OLD / "by_table" / "scores.parquet", tmp_path)
    content["tests"][3]["quantities"][3]["value"] = 0.5
    (tmp_path / "evidence.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="One of the two files was changed"):
        recompute(tmp_path)
    unseen = next(gate for gate in content["gates"] if gate["name"] == "controls unseen")
    unseen["reason"] += (
        f"{BY_LEVEL} 0.010 nats per token (exact text, p = 0.4; 0.050 are allowed whatever p, and any within chance)."
    )
    (tmp_path / "evidence.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="A development version of 27 November 2026"):
        recompute(tmp_path)


def test_old_certificates_hold() -> None:
    """Signed with rule 1, a certificate holds as ever, and the check says that no other way of asking was judged."""
    folder = OLD / "signed"
    keys = [load_public_key(folder / f"{role}.key.pub") for role in ("operator", "auditor")]
    found = check_certificate(folder / "certificate.json", keys, deletion=folder / "deletion.json")
    assert found.holds
    assert list(found.phrases.values()) == ["EQUIVALENT_WITHIN(rho = 0.2, alpha = 0.05)"]
    assert "rule 1, which asks in no other way" in "".join(finding.detail for finding in found.findings)


def test_a_file_without_a_rule_is_of_rule_1_and_a_new_one_of_rule_2(tmp_path: Path) -> None:
    """Old registrations keep their digest, which somebody else holds; new settings name their rule."""
    old = {"schema": "unlearn-verify/registration/1", "created": "2026-11-20T09:00:00+00:00", "canaries": None}
    old |= {"sets": [{"role": "forget", "records": ["a" * 32]}], "settings": {"margin": 0.2}}
    path = tmp_path / "registration.json"
    path.write_text(json.dumps(old))
    read = Registration.load(path)
    assert read.settings.rule == 1
    assert "rule" not in read.settings.model_dump(mode="json")
    assert read.digest == "1f62a8e70277f67b2bf1d1b5d8ae756a2c2c404a2480dcc6f71c5277367af389"
    assert Settings().model_dump(mode="json")["rule"] == 2
    assert Settings.model_validate_json(Settings().model_dump_json()) == Settings()
    assert Settings.model_validate_json(Settings(rule=1).model_dump_json()) == Settings(rule=1)


@pytest.mark.parametrize("field", sorted(SECOND_RULE))
def test_a_verdict_by_rule_1_has_no_fields_of_rule_2(field: str, tmp_path: Path) -> None:
    """A list of channels put beside an old word is refused."""
    content = json.loads((OLD / "certified" / "evidence.json").read_text())
    given = {"noise_ratio": 1.5, "smallest_margin": 0.1}.get(field, [])
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(content | {field: given or [{}]}))
    with pytest.raises(InputError, match=f"rule 1 has no {field}" if given else field):
        Evidence.load(path)
