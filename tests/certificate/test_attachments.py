"""What is given with a certificate is always answered: an attachment that no statement is about does not hold."""

import base64
import json
from pathlib import Path

import pytest
from certificates import broken, certified, check, proof_of

from verify.certificate.attachments import Attachments, attachment_findings


@pytest.mark.parametrize("given", ["a real one", "a foreign folder", "nothing"])
def test_an_audit_that_no_statement_is_about_is_named(house: dict[str, Path], tmp_path: Path, given: str) -> None:
    """A certificate of a re-execution alone says nothing of any audit: whatever is given as one does not hold."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "evidence.json").write_text("{}")
    folder = {"a real one": house["audit"], "a foreign folder": tmp_path / "foreign", "nothing": tmp_path / "absent"}[given]
    path = certified(house, tmp_path / "executed", proof_of(house), audit=False, about={})
    assert check(house, path).holds
    assert broken(check(house, path, audit=folder)) == f"audit {folder}: the certificate has no valid statement on an audit"


def test_an_audit_whose_statement_names_no_file_is_named(house: dict[str, Path]) -> None:
    """A statement without a digest of any file vouches for none; beside one of a whole audit the better match counts."""
    envelopes = json.loads(house["certificate.json"].read_text())["envelopes"]
    whole = json.loads(base64.b64decode(envelopes[1]["payload"]))
    empty = {"predicate": {"configuration": []}}
    given = Attachments(None, house["audit"], None, None)
    (alone,) = attachment_findings({"0" * 64: {"auditor": empty}}, given)
    assert (alone.holds, alone.detail) == (False, "the certificate's statement on the audit names no file of it")
    both = attachment_findings({"0" * 64: {"auditor": empty}, "1" * 64: {"auditor": whole}}, given)
    assert [finding.holds for finding in both] == [True, True]


def test_nothing_given_is_passed_over_where_no_statement_is_valid(house: dict[str, Path]) -> None:
    """With a foreign key every attachment gets a finding of its own, which does not hold."""
    given = {"model": house["after"], "audit": house["audit"], "deletion": house["deletion"], "ledger_head": "ab" * 32}
    checked = check(house, key="other", **given)
    for what in ("model ", "audit ", "deletion record ", "head of the request ledger"):
        assert [finding.holds for finding in checked.findings if finding.what.startswith(what)] == [False], what
