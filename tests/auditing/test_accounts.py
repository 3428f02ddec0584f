"""The account of audits against the same controls: who counts, at which level the next one accuses, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
from audits import BLIND, BY_TABLE, LEVEL_TABLE, TABLE_ASIDE, evidence_by_table, evidence_of
from pydantic import ValidationError
from score_tables import simulated_table, table_with_pool, with_channels

from verify import InputError, Settings, summary
from verify.auditing.accounts import account_of, audits_shown, controls_digest, controls_of
from verify.auditing.power import control_rows
from verify.data.identity import RecordKey, set_digest
from verify.data.records import Fields, parse_records
from verify.judging import protocol
from verify.judging.protocol import Aside, judge
from verify.report.html import render
from verify.schema.alpha_spending import Spending
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount
from verify.scores.table import ScoreTable

SETTINGS = Settings(planted_draws=20)
PLANNED = Settings(planted_draws=20, expected_audits=20)
HOLDOUT = "c" * 64
"""Digest of every set in `evidence_of`."""


def past(seed: int, settings: Settings = SETTINGS, **changes: Any) -> Evidence:
    """Evidence of an earlier audit."""
    return evidence_of(simulated_table(seed=seed, records=20, controls=20), settings).model_copy(update=changes)


@pytest.mark.slow
def test_controls_are_a_level_table_or_a_set() -> None:
    """A table keeps its name when controls leave it; without one the set of records is the name, whatever their order."""
    records, key = parse_records([{"text": "one"}, {"text": "two"}], Fields(), "rows"), RecordKey(b"k" * 32)
    names = [key.of(record.fingerprint) for record in records]
    assert controls_digest(records, None, key) == controls_digest(records[::-1], None, key) == set_digest(names)
    assert controls_digest(records, "1" * 64, key) == "1" * 64
    assert controls_digest(None, None, key) is None
    assert controls_of(past(0)) == HOLDOUT
    assert controls_of(evidence_by_table(people=3)) == LEVEL_TABLE.digest
    assert controls_of(evidence_of(simulated_table(controls=0, records=20))) is None


@pytest.mark.slow
def test_evidence_is_counted_with_what_it_counted_itself() -> None:
    """Two earlier audits, one of which names a third: the fourth. Other controls and the same file twice count for nothing."""
    first, second = past(1), past(2)
    third = past(3, account=ControlsAccount.of(0.05, None, HOLDOUT, 2, (first.digest,)))
    found = account_of(SETTINGS, HOLDOUT, [second, third], [second, evidence_by_table(people=3)])
    assert found is not None
    assert (found.number, set(found.earlier), found.counted) == (4, {one.digest for one in (first, second, third)}, "evidence")
    assert (found.level, found.spent) == (0.05, pytest.approx(0.2))
    by_ledger = past(4, account=ControlsAccount.of(0.05, None, HOLDOUT, 9))
    assert getattr(account_of(SETTINGS, HOLDOUT, [by_ledger], []), "number", None) == 10
    counted = account_of(SETTINGS, HOLDOUT, [], [second], 6)
    assert counted is not None
    assert (counted.number, counted.counted, counted.earlier) == (7, "ledger", ())
    assert (audits_shown([by_ledger], HOLDOUT), audits_shown([by_ledger], "d" * 64)) == (9, 0)


def test_nobody_counts_without_controls_or_need() -> None:
    """No controls, nothing given and nothing planned, or rule 1, which knew no account: none."""
    assert account_of(SETTINGS, HOLDOUT, [], []) is None
    assert account_of(PLANNED, None, [], []) is None
    assert account_of(PLANNED.model_copy(update={"rule": 1}), HOLDOUT, [], []) is None
    assert getattr(account_of(PLANNED, HOLDOUT, [], []), "number", None) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"settings": PLANNED, "deletions": [past(1)]}, "alpha = 0.05 and no number planned.*Leave --expected-audits out"),
        (
            {"settings": SETTINGS.model_copy(update={"expected_audits": 9}), "deletions": [past(1, PLANNED)]},
            "20 planned.*Give --alpha 0.05 --expected-audits 20",
        ),
        ({"deletions": [past(1)], "controls": "d" * 64}, "earlier audit 1 was made against other controls"),
        ({"deletions": [past(1)], "controls": None, "canaries": True}, "it has no canaries"),
        ({"audited_before": -1}, "got -1"),
        ({"audited_before": 0, "looks": [past(1)]}, "audited_before counts 0 .* shows at least 1. Give the ledger's number"),
        ({"audited_before": 1, "deletions": [past(1)], "looks": [past(2)]}, "counts 1 .* shows at least 2"),
        (
            {"audited_before": 1, "looks": [past(1, account=ControlsAccount.of(0.05, None, HOLDOUT, 2))]},
            "counts 1 .* shows at least 2",
        ),
        ({"settings": PLANNED, "looks": [past(1)], "audited_before": 5}, "no number planned"),
    ],
)
def test_what_would_falsify_the_account_is_refused(given: dict[str, Any], message: str) -> None:
    """Levels that were not fixed before the first audit, evidence that counts nowhere, and a number that is negative or below
    what the evidence itself shows: given audits, and those that they count."""
    plain: dict[str, Any] = {"settings": SETTINGS, "controls": HOLDOUT, "deletions": [], "looks": []}
    with pytest.raises(InputError, match=message):
        account_of(**{**plain, **given})


def left_over(share: float) -> ScoreTable:
    """A retraining in every respect, but for a share of what the original knows of every record."""
    table = with_channels(simulated_table(records=40), {"instruction": 0.0})
    blocks, target = dict(table.blocks), table.blocks["target", "forget"]
    known = table.losses([name for name in table.models() if name.startswith("reference")], "forget").mean(axis=0)
    blocks["target", "forget"] = replace(target, loss=target.loss - share * (known - table.loss("original", "forget")))
    return ScoreTable(blocks)


@pytest.mark.slow
@pytest.mark.parametrize("by_table", [True, False])
def test_accusations_spend_and_certificates_do_not(by_table: bool) -> None:
    """The last of twenty planned audits and the first beyond 500: what they accuse is a part of what alpha accuses, C1 and C2 and
    every channel's certificate are the same; over borderline models the account accuses fewer.
    """
    fewer = 0
    for share in (0.11, 0.12, 0.125) if by_table else (0.14, 0.16):
        if by_table:
            table, aside, settings = table_with_pool(residual=share, channels={"instruction": 0.0}), TABLE_ASIDE, BY_TABLE
        else:
            table, aside, settings = left_over(share), Aside(BLIND), SETTINGS
        plain = judge(table, settings, aside)
        for planned, number in ((20, 20), (500, 501)):
            own = settings.model_copy(update={"expected_audits": planned})
            found = judge(table, own, replace(aside, account=ControlsAccount.of(0.05, planned, HOLDOUT, number)))
            certifying = [[test.fired for test in one.tests if test.name in ("C1", "C2")] for one in (plain, found)]
            assert certifying[0] == certifying[1]
            assert {one.record for one in found.accused} <= {one.record for one in plain.accused}
            assert {one.name for one in found.channels if one.accused} <= {one.name for one in plain.channels if one.accused}
            assert [one.certified for one in found.channels] == [one.certified for one in plain.channels]
            forgone = (plain.verdict, found.verdict).count("NOT_FORGOTTEN") == 1
            assert forgone == any(one.name == "all of alpha" and not one.passed for one in found.gates)
            fewer += forgone
            assert f"accusations at {Spending(0.05, planned).level(number):.3g}" in found.scope
    assert fewer, "some of these models are accused at alpha and not at a share of it"


@pytest.mark.slow
@pytest.mark.parametrize("accused", [True, False])
def test_an_account_makes_no_certificate_cheaper(monkeypatch: pytest.MonkeyPatch, accused: bool) -> None:
    """Scores that are certified at a share of alpha and would be accused at all of it are INCONCLUSIVE; certified at both, they are
    certified.
    """
    table, untouched = (simulated_table(references=8, kept=kept) for kept in (0.0, 1.0))
    claim = protocol.record_claim

    def claim_of(_: ScoreTable, references: Any, settings: Settings, blind: Any, spends: float) -> Any:
        return claim(untouched if accused and spends == 1 else table, references, settings, blind)

    monkeypatch.setattr(protocol, "record_claim", claim_of)
    settings = Settings(planted_draws=40, expected_audits=2)
    found = judge(table, settings, Aside(BLIND, account=ControlsAccount.of(0.05, 2, HOLDOUT, 1)))
    (gate,) = (one for one in found.gates if one.name == "all of alpha")
    assert (found.verdict, gate.passed) == (("INCONCLUSIVE", False) if accused else ("EQUIVALENT_WITHIN", True))
    assert (gate.reason in found.explanation) == accused
    assert not [one for one in judge(table, settings, Aside(BLIND)).gates if one.name == "all of alpha"]


@pytest.mark.slow
def test_the_page_counts_and_old_evidence_is_as_it_was() -> None:
    """Evidence, page and summary name the number and what was spent; evidence without an account is written without one."""
    plain = past(0)
    assert "account" not in plain.text()
    assert "expected_audits" not in plain.text()
    third = plain.model_copy(update={"account": ControlsAccount.of(0.05, None, HOLDOUT, 3, ("1" * 64, "2" * 64))})
    assert Evidence.model_validate_json(third.text()) == third
    said = (
        "This is at least the third audit against the same controls, by the evidence that was given: it accuses at level 0.05, and "
        "if the others accused at no more, any of the 3 accuses an honest deletion with a probability of up to 0.15."
    )
    account = ControlsAccount.of(0.05, 20, HOLDOUT, 3)
    planned = past(0, PLANNED, account=account)
    spent = (
        "by the operator's ledger of 20 planned: its accusations were made at level 0.00225, and those of all of them so far add"
    )
    for found, words in ((third, said), (planned, spent)):
        assert words in summary(found)
        assert words in render(found).replace("&#39;", "'")
    assert "beyond the 20 planned" in ControlsAccount.of(0.05, 20, HOLDOUT, 21).said(0.05)
    assert ControlsAccount.of(0.05, None, HOLDOUT, 1).said(0.05).endswith("is accused with a probability of up to 0.05.")
    assert "against the same controls" not in summary(
        plain.model_copy(update={"account": ControlsAccount.of(0.05, None, HOLDOUT, 1)})
    )


@pytest.mark.parametrize(
    "change",
    [{"level": 0.05}, {"spent": 0.5}, {"number": 4}, {"expected": 7}, {"number": 1, "earlier": ("1" * 64,)}, {"number": 0}],
)
def test_an_account_that_does_not_add_up_is_no_evidence(change: dict[str, Any]) -> None:
    """Another level, sum, number or plan than the settings give is refused when the file is read."""
    found = past(0, PLANNED, account=ControlsAccount.of(0.05, 20, HOLDOUT, 21))
    assert Evidence.model_validate_json(found.text()) == found
    assert found.account is not None
    spoilt = found.model_copy(update={"account": found.account.model_copy(update=change)})
    with pytest.raises(ValidationError):
        Evidence.model_validate_json(spoilt.text())


def test_power_is_that_of_the_share() -> None:
    """Of a lone record among controls: at a twentieth of nine tenths of alpha, 22 times as many controls are needed."""
    rows = {row.claim: row.needed for row in control_rows(1, 10, PLANNED)}
    assert rows["held-out controls: accuse a single record of the set"] == "888 controls"
