"""A certificate by a level table says so, and fails where the table is no older than the requests or is another model's."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audits import evidence_by_table
from certificates import about, broken, check, rewritten

from verify.auditing.looks import look_at
from verify.certificate.claims import judge_findings
from verify.certificate.statements import auditor_statement
from verify.io.files import write_manifest
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount
from verify.schema.near_duplicates import NearDuplicatesLeft
from verify.schema.reexecution import Likeness


@pytest.fixture(scope="module")
def certified() -> Evidence:
    """An audit of an honest deletion by a level table, the second of these weights."""
    found = evidence_by_table()
    assert found.verdict == "EQUIVALENT_WITHIN"
    return found.model_copy(update={"looks": (look_at(evidence_by_table(people=3), found),)})


def test_a_certificate_says_what_judged_and_which_look_it_was(house: dict[str, Path], certified: Evidence, tmp_path: Path) -> None:
    """The check prints the table with its date, and the earlier audit of the same weights."""
    found = check(house, rewritten(house, tmp_path / "c.json", about(certified, lambda _: None)))
    assert found.holds, broken(found)
    said = {one.what: one.detail for one in found.findings}
    assert said["judged by"].startswith(
        "a level table of 8 models, each trained without half of the people, made on 2026-10-01, before"
    )
    assert "by rule 4; no retrained references" in said["judged by"]
    assert said["audits of these weights"].startswith("This is at least the second audit of these weights. Earlier: ")
    assert list(found.phrases.values()) == ["EQUIVALENT_WITHIN(rho = 0.1, alpha = 0.05; exact text, mean loss; level table)"]


def test_a_certificate_counts_near_duplicates_that_stay_and_names_none(certified: Evidence, tmp_path: Path) -> None:
    """The statement to sign has the numbers without any record's hash, and the check prints them."""
    pair = Likeness(record="e" * 32, forget="f" * 32, similarity=0.9)
    left = NearDuplicatesLeft(compared=40, records=1, forget=("f" * 32,), listed=(pair,))
    certified.model_copy(update={"near_duplicates": left}).save(tmp_path / "evidence.json")
    (tmp_path / "scores.parquet").touch()
    write_manifest(tmp_path, "audit")
    statement = auditor_statement(tmp_path)
    assert statement["predicate"]["annotations"]["evidence"]["near_duplicates"] == {"compared": 40, "records": 1, "forget": 1}
    assert not {"e" * 32, "f" * 32} & set(re.findall("[0-9a-f]{32}", json.dumps(statement)))
    (said,) = (one.detail for one in judge_findings(statement["predicate"], ()) if one.what == "near-duplicates that stay")
    assert said.startswith("1 of the 40 records to keep that were given is a near-duplicate of a forget record.")


def test_a_certificate_states_the_account_of_its_controls(house: dict[str, Path], certified: Evidence, tmp_path: Path) -> None:
    """The check prints number and level, and refuses an account that does not follow from the settings, or is left out."""
    settings = certified.settings.model_copy(update={"expected_audits": 20})
    account = ControlsAccount.of(0.05, 20, str(certified.level_table and certified.level_table.digest), 4)
    planned = certified.model_copy(update={"settings": settings, "account": account})
    found = check(house, rewritten(house, tmp_path / "c.json", about(planned, lambda _: None)))
    assert found.holds, broken(found)
    said = {one.what: one.detail for one in found.findings}["audits against these controls"]
    assert said.startswith("This is the fourth audit against the same controls, by the operator's ledger of 20 planned")
    for name, change in {"d.json": {"level": 0.05}, "e.json": None}.items():

        def spoil(signed: dict[str, Any], change: dict[str, Any] | None = change) -> None:
            account = signed["evidence"]["account"]
            signed["evidence"]["account"] = None if change is None else account | change

        again = check(house, rewritten(house, tmp_path / name, about(planned, spoil)))
        assert "audits against these controls" in broken(again)


def made_late(found: dict[str, Any]) -> None:
    found["evidence"]["level_table"]["created"] = "2026-12-01T00:00:00+00:00"


def undated(found: dict[str, Any]) -> None:
    found["evidence"]["level_table"]["created"] = "autumn"


def before_the_calendar(found: dict[str, Any]) -> None:
    """In any zone west of its own, this is the year 0."""
    found["evidence"]["level_table"] |= dict.fromkeys(("created", "destroyed"), "0001-01-01T00:00:00+14:00")


def other_model(found: dict[str, Any]) -> None:
    found["evidence"]["level_table"]["original"] = "9" * 64


def destroyed_late(found: dict[str, Any]) -> None:
    found["evidence"]["level_table"]["destroyed"] = "2026-10-02T09:00:00+00:00"


def more_rows(found: dict[str, Any]) -> None:
    found["evidence"]["level_table"]["rows"] = 913


def more_judges(found: dict[str, Any]) -> None:
    found["evidence"]["level_table"]["judging"] = 9


def no_table(found: dict[str, Any]) -> None:
    del found["evidence"]["level_table"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (made_late, "which is not before"),
        (undated, "bears no date"),
        (before_the_calendar, "which is not before"),
        (other_model, "belongs to the weights"),
        (destroyed_late, "destroyed at 2026-10-02T09:00:00+00:00, after it was made"),
        (more_rows, "more rows or controls than when it was signed"),
        (more_judges, "9 of its 8 models judged"),
        (no_table, "names the level table"),
    ],
)
def test_a_table_that_cannot_judge_this_deletion_fails_the_check(
    house: dict[str, Path], certified: Evidence, tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    """Made after the request, without a date, of another model, or not named: one finding fails and says which."""
    found = check(house, rewritten(house, tmp_path / "c.json", about(certified, change)))
    assert not found.holds
    assert [what in one.detail for one in found.findings if one.what == "judged by"] == [True]
