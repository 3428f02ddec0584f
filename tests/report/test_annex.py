"""The annex for a data-protection file: answers from evidence alone, what is missing said, and never that a model is anonymous."""

from pathlib import Path
from typing import Any

import pytest
from audits import BLIND, evidence_by_table, evidence_of
from deletions import HOSTILE, model_of, of_other_weights, record_of
from report_reading import Page
from score_tables import simulated_table

from verify import Settings
from verify.cli.main import main
from verify.judging.protocol import Aside
from verify.report.annex import NOT_COVERED, TO_ADD, answers, render_annex
from verify.report.attack_pages import headline, worst_attack
from verify.schema.evidence import Evidence


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """A certified audit."""
    return evidence_of(simulated_table())


def said(evidence: Evidence) -> dict[str, str]:
    return {row.asked: row.said for row in answers(evidence)}


def test_every_answer_is_of_the_evidence(evidence: Evidence) -> None:
    """Numbers with their intervals, the weights, the verdict, who could attack, and the digest of the file they come from."""
    found, target = said(evidence), next(model for model in evidence.models if model.role == "target")
    attack = worst_attack(evidence, "membership")
    assert attack is not None
    assert str(headline(attack)) in found["Recognition of who was in the training data"]
    assert target.weights[:16] in found["What was tested"]
    assert evidence.verdict_phrase in found["Outcome"]
    assert evidence.digest[:16] in found["Documentation"]
    assert str(evidence.set("forget").records) in found["Whose data"]
    assert NOT_COVERED[1:] in found["What was not tested"]
    assert all(entry.attack in found["What was not tested"] for entry in evidence.not_run)
    text = Page(render_annex(evidence, ["A limit of the deletion."])).text
    assert all(answer in text for answer in found.values())
    assert all(item in text for item in TO_ADD)
    assert "A limit of the deletion." in text
    assert text.count("anonymous") == 1
    assert "does not say that the model is anonymous" in text


def test_what_was_not_measured_is_said() -> None:
    """Without references, controls or extraction the answers say so instead of a number."""
    silent = evidence_of(simulated_table(references=0), Settings(planted_draws=40, twins=True), Aside(BLIND, 0.5))
    assert "without models to compare with" in said(silent)["What was tested"]
    bare = silent.model_copy(update={"attacks": (), "threats": (), "channels": ()})
    found = said(bare)
    assert found["Extraction of personal data from the model"].startswith("Not measured")
    assert found["Recognition of who was in the training data"].startswith("Not measured")
    assert found["With which means"].startswith("Not stated")
    assert "hether its text comes out" in found["What was not tested"]
    assert "Other ways of asking were not judged" in found["Personal data obtained by queries"]


def test_hostile_evidence_is_inert(evidence: Evidence) -> None:
    """Markup in somebody else's evidence is text."""
    page = render_annex(evidence.model_copy(update={"not_shown": (HOSTILE,)}), [HOSTILE])
    assert not {"script", "img"} & set(Page(page).tags)


def test_on_the_command_line(evidence: Evidence, tmp_path: Path, capsys: Any) -> None:
    """One page from the audit's folder; the record of another deletion is refused."""
    (tmp_path / "audit").mkdir()
    evidence.save(tmp_path / "audit" / "evidence.json")
    record_of(evidence).save(tmp_path / "deletion.json")
    other = of_other_weights(evidence)
    record_of(other, models=(model_of(other, audit_digest="9" * 64),)).save(tmp_path / "other.json")
    command = ["annex", str(tmp_path / "audit"), "--output", str(tmp_path / "annex.html"), "--deletion"]
    assert main([*command, str(tmp_path / "other.json")]) == 2
    assert "is about no model with this audit" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "deletion.json")]) == 0
    assert "Backups were not searched." in (tmp_path / "annex.html").read_text()


@pytest.mark.slow
def test_an_audit_by_a_level_table_is_compared_with_no_model() -> None:
    """The annex names the table, and no models that were retrained; that it was registered in time is nobody's finding."""
    found = said(evidence_by_table())
    assert "by the clock of whoever registered them" in found["Documentation"]
    tested = found["What was tested"]
    assert "compared with a level table of 8 models" in tested
    assert "no model was retrained" in tested
