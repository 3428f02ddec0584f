"""Audits by a level table: the four words, every validity check, and what evidence, report and summary say of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import BY_TABLE, LEVEL_TABLE, REGISTRATION, TABLE_ASIDE, evidence_by_table, evidence_of
from pydantic import ValidationError
from score_tables import simulated_table, table_with_pool

from verify import summary
from verify.auditing.looks import found_looks
from verify.auditing.recompute import recompute
from verify.errors import InputError, RunError
from verify.judging.level_table_gates import LEVELS_UNCHECKED, made_before_gate, unseen_controls_gate
from verify.judging.protocol import Aside, judge
from verify.judging.user_level_claim import units, whose
from verify.report.html import render
from verify.schema.evidence import Evidence
from verify.schema.judged_by import Look, looks_in_words, share_in_words, table_rule_in_words
from verify.schema.near_duplicates import NearDuplicatesLeft
from verify.schema.reexecution import Likeness
from verify.scores.table import ScoreTable
from verify.statistics.controls import NoiseRatio
from verify.statistics.level_checks import ControlsCheck
from verify.statistics.level_shape import ShapeCheck

SETTINGS, ASIDE, USED, REGISTERED = BY_TABLE, TABLE_ASIDE, LEVEL_TABLE, REGISTRATION


def judged(aside: Aside = ASIDE, **world: Any) -> Any:
    return judge(table_with_pool(**world), SETTINGS, aside)


def gate(found: Any, name: str) -> Any:
    return next(entry for entry in found.gates if entry.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_an_honest_deletion_of_twenty_people_is_certified(seed: int) -> None:
    """A model that never saw them passes, although the table's models have another level and another slope."""
    found = judged(seed=seed)
    assert found.verdict == "EQUIVALENT_WITHIN", found.explanation
    assert found.residual is not None
    assert abs(found.residual.value) < 0.05
    assert found.tiers == ("level table",)
    assert "was not checked" not in gate(found, "controls unseen").reason
    assert [entry.name for entry in found.gates if entry.passed is False and "record" in entry.claims] == []
    assert "of what a model that never saw them would give, by a level table of 8 models" in found.scope


@pytest.mark.slow
@pytest.mark.parametrize(("world", "direction"), [({"kept": 4}, "remembered"), ({"residual": 0.3}, "remembered")])
def test_what_was_kept_is_found(world: dict[str, Any], direction: str) -> None:
    """A fifth of the people wholly kept, or a third of everything kept, is NOT_FORGOTTEN by the level table."""
    found = judged(**world)
    assert found.verdict == "NOT_FORGOTTEN"
    assert found.accused_by[0] == "level table"
    assert all(entry.direction == direction for entry in found.accused[:8])
    if "kept" in world:
        assert len(found.accused) >= 12, "the sixteen records that were kept are named"


@pytest.mark.slow
def test_one_kept_person_among_twenty_is_named() -> None:
    """One person wholly kept is accused, by the test per record or per subject."""
    found = judged(kept=1)
    assert found.verdict == "NOT_FORGOTTEN"
    table = table_with_pool(kept=1)
    first = table.blocks["target", "forget"].subjects[0]
    assert first in {*(entry.subject for entry in found.subjects), *(entry.subject for entry in found.accused)}


@pytest.mark.slow
def test_one_person_is_accused_but_never_certified() -> None:
    """The original is accused over one person's records; an honest deletion stays open and points to re-execution."""
    kept, gone = judged(people=1, kept=1), judged(people=1)
    assert kept.verdict == "NOT_FORGOTTEN"
    assert gone.verdict == "INCONCLUSIVE"
    assert gate(gone, "several subjects").passed is False
    assert gone.next_step is not None
    assert "verify-unlearning reexecute" in gone.next_step
    assert gone.smallest_margin is None
    assert gate(gone, "controls unseen").passed is True
    assert LEVELS_UNCHECKED in gate(gone, "controls unseen").reason
    assert LEVELS_UNCHECKED in gone.not_shown


@pytest.mark.slow
def test_records_that_name_nobody_are_of_one_person_where_the_table_says_so() -> None:
    """One person's records without a subject are not several people's: the table groups them, and nothing is certified."""
    table = table_with_pool(people=1)
    nameless = {
        (model, role): replace(block, subjects=(None,) * len(block.records)) if role == "forget" and "pool" not in model else block
        for (model, role), block in table.blocks.items()
    }
    assert len(table.blocks["target", "forget"].records) > 1
    found = judge(ScoreTable(nameless), SETTINGS, ASIDE)
    assert gate(found, "several subjects").passed is False
    assert found.verdict == judged(people=1).verdict == "INCONCLUSIVE"


@pytest.mark.slow
def test_records_that_name_nobody_may_all_be_of_one_person() -> None:
    """Twenty people's records certify a deletion; without the people's names, as the table has none either, they do not."""
    table = table_with_pool()
    assert judge(table, SETTINGS, ASIDE).verdict == "EQUIVALENT_WITHIN"
    blocks = dict(table.blocks)
    for model, role in blocks:
        if role == "forget":
            own = blocks[model, role]
            blocks[model, role] = replace(own, subjects=own.records if "pool" in model else (None,) * len(own.records))
    found = judge(ScoreTable(blocks), SETTINGS, ASIDE)
    assert found.verdict != "EQUIVALENT_WITHIN"
    assert "name nobody" in gate(found, "several subjects").reason


def test_records_are_joined_by_either_list() -> None:
    """Records that share a person or a group of the table count for one, by any number of steps, under a name of the audit."""
    table = table_with_pool(people=4)
    block, pool = table.blocks["target", "forget"], table.blocks["pool 1", "forget"]
    assert units(table, "forget") == whose(block), "the same groups: nothing changes"
    names = ["d", "c", "c", "b", "a"] + ["z"] * (len(block.records) - 5)
    groups = ["1", "1", "2", "3", "2"] + ["4"] * (len(block.records) - 5)
    blocks = {**table.blocks, ("target", "forget"): replace(block, subjects=tuple(names))}
    blocks["pool 1", "forget"] = replace(pool, subjects=tuple(groups))
    assert units(ScoreTable(blocks), "forget")[:6] == ["a", "a", "a", "b", "a", "z"]


@pytest.mark.slow
def test_another_way_of_asking_accuses() -> None:
    """A model that is honest on the exact text and keeps half of the gap on a channel is accused asked otherwise."""
    found = judged(channels={"instruction": 0.5, "int8": 0.0})
    assert found.verdict == "NOT_FORGOTTEN"
    assert found.accused_by == ("asked otherwise",)
    assert [channel.name for channel in found.channels if channel.accused] == ["instruction"]
    assert any("what the level table says" in sentence for sentence in found.explanation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "world", "aside"),
    [
        ("positive control", {"gap": 0.02}, ASIDE),
        ("negative control", {"leaking": 2}, ASIDE),
        ("utility", {"broken": 3.0}, ASIDE),
        ("level table", {"controls": 4}, ASIDE),
        ("level table", {}, replace(ASIDE, level_table=USED.model_copy(update={"references": 1}))),
        ("controls of the same kind", {}, replace(ASIDE, blind_p=0.004)),
        (
            "table before the request",
            {},
            replace(ASIDE, registered=REGISTERED.model_copy(update={"created": "2026-09-30T00:00:00+00:00"})),
        ),
    ],
)
def test_what_makes_an_audit_untestable(name: str, world: dict[str, Any], aside: Aside) -> None:
    """A failed check of the table, its controls or the models gives NOT_TESTABLE, before any other word."""
    found = judged(aside, **world)
    assert found.verdict == "NOT_TESTABLE"
    assert gate(found, name).passed is False
    assert found.next_step is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("controls like the records", {"foreign": 3.0}),
        ("controls unseen", {"residual": 0.25, "learned": 1.0}),
        ("controls unseen", {"noisy": 0.6}),
        ("utility", {"retain": False}),
    ],
)
def test_what_leaves_an_audit_open(name: str, world: dict[str, Any]) -> None:
    """Records beyond the controls' levels, a model that learned the controls or is noisy there, unknown utility: no certificate."""
    found = judged(**world)
    assert found.verdict != "EQUIVALENT_WITHIN"
    assert not gate(found, name).passed


@pytest.mark.parametrize(
    ("difference", "ratio", "p_value", "said"),
    [
        (0.1, 1.1, 0.3, None),
        (0.4, 1.1, 0.3, "trained on the controls"),
        (-0.9, 3.0, 0.3, "made noisy"),
        (0.1, 1.1, 0.001, "hard controls otherwise than on easy ones"),
    ],
)
def test_a_target_that_was_changed_on_the_controls_is_not_certified(
    difference: float, ratio: float, p_value: float, said: str | None
) -> None:
    """One that fits the controls better than the original, is noisier on them, or other by level, leaves the audit open."""
    check = ControlsCheck(difference, 0.05, 0.2)
    shapes = (ShapeCheck("exact text", 0.1, 0.2, 0.001, 0.005), ShapeCheck("int8", 0.3, 0.2, p_value, 0.005))
    found = unseen_controls_gate(check, NoiseRatio(ratio, ratio / 1.5, ratio, 80, 20), shapes)
    assert found.passed is (said is None)
    assert found.blocks == "INCONCLUSIVE"
    assert said is None or said in found.reason


@pytest.mark.slow
def test_the_utility_yardstick_saw_the_whole_data() -> None:
    """Utility is relative to the original; the pool, which saw half of the data, has no utility."""
    found = judged()
    assert [entry.model for entry in found.utility] == ["original", "target"]
    assert "the model before unlearning" in gate(found, "utility").reason


@pytest.mark.slow
def test_a_table_without_a_registration_is_not_shown_to_be_old() -> None:
    """Without a registration nothing shows the table's age: the audit says so and can still certify."""
    found = judged(replace(ASIDE, registered=None))
    assert gate(found, "table before the request").passed is None
    assert found.verdict == "EQUIVALENT_WITHIN"
    assert "Not shown: that the level table is older" in summary(evidence_by_table(replace(ASIDE, registered=None)))
    assert made_before_gate(USED.model_copy(update={"created": "no date"}), REGISTERED).passed is False


@pytest.mark.slow
def test_a_verdict_recomputes_from_its_files(tmp_path: Path) -> None:
    """Score table and evidence give the same judgement again; a changed number of the pool does not."""
    table, found = table_with_pool(), evidence_by_table()
    found.save(tmp_path / "evidence.json")
    table.save(tmp_path / "scores.parquet")
    again = recompute(tmp_path)
    assert again == Evidence.load(tmp_path / "evidence.json") == found
    blocks = dict(table.blocks)
    block = blocks["pool 3", "holdout"]
    blocks["pool 3", "holdout"] = replace(block, loss=block.loss + np.linspace(0, 0.5, len(block.loss)))
    ScoreTable(blocks).save(tmp_path / "scores.parquet")
    with pytest.raises(RunError, match="does not follow"):
        recompute(tmp_path)


@pytest.mark.slow
def test_the_evidence_names_the_table_and_no_other_judge() -> None:
    """Rule 4 and a level table belong together, and exclude references."""
    found = evidence_by_table()
    content = found.model_dump(mode="json", by_alias=True)
    assert content["level_table"]["digest"] == USED.digest
    assert found.verdict_phrase == "EQUIVALENT_WITHIN(rho = 0.1, alpha = 0.05; exact text, mean loss; level table)"
    target = next(model for model in content["models"] if model["role"] == "target")
    reference = {**target, "role": "reference", "label": "reference 1"}
    for change, what in (
        ({"level_table": None}, "names the level table"),
        ({"settings": {**content["settings"], "rule": 2}}, "names the level table"),
        ({"level_table": {**content["level_table"], "original": "9" * 64}}, "belongs to other weights"),
        ({"models": [*content["models"], reference]}, "not both"),
    ):
        with pytest.raises(ValueError, match=what):
            Evidence.model_validate_json(json.dumps({**content, **change}))
    by_references = evidence_of(simulated_table(references=4))
    assert "level_table" not in by_references.text()
    assert "looks" not in by_references.text()


@pytest.mark.slow
def test_every_document_says_which_of_the_two_judged() -> None:
    """Report and summary name the table, its age, its signer, what left it; an unverified signature is a warning."""
    found = evidence_by_table()
    sentence = "Judged against a level table of 8 models, each trained without half of the people, made on 2026-10-01, before"
    for text in (render(found), summary(found)):
        assert sentence in text
        assert "no retrained references" in text
        assert "never-trained controls calibrate it (rule 4)" in text
        assert "12 of its 912 rows have left it" in text
        assert "controls for the audit have left" not in text
    fewer = USED.model_copy(update={"controls_signed": USED.controls + 3})
    said = f"3 of its {USED.controls + 3} controls for the audit have left it since it was signed"
    with_fewer = evidence_by_table(replace(ASIDE, level_table=fewer))
    assert said in summary(with_fewer)
    assert said in render(with_fewer)
    assert "controls_signed" not in found.text()
    assert Evidence.model_validate_json(with_fewer.text()) == with_fewer
    unchecked = USED.model_copy(update={"trusted": False})
    assert "Not checked: the signature of the level table" in summary(evidence_by_table(replace(ASIDE, level_table=unchecked)))


@pytest.mark.slow
@pytest.mark.parametrize("by_table", [True, False])
def test_a_finding_that_a_near_duplicate_may_explain_is_said_to_be_one(by_table: bool) -> None:
    """Sixteen records are found; two of them have a near-duplicate that stays, and only a table's models did not know those."""
    found = evidence_by_table(kept=4) if by_table else evidence_of(simulated_table(kept=0.2))
    accused = [finding.record for finding in found.accused]
    pair = Likeness(record="e" * 32, forget=accused[0], similarity=0.9)
    left = NearDuplicatesLeft(compared=40, records=1, forget=tuple(sorted(accused[:2])), listed=(pair,))
    named = found.model_copy(update={"near_duplicates": left})
    assert Evidence.model_validate_json(named.text()) == named
    assert "near_duplicates" not in found.text(), "evidence of earlier versions is written as it was"
    said = "1 of the 40 records to keep that were given is a near-duplicate of 2 forget records."
    for text in (render(named), summary(named)):
        assert said in text
        assert ("an accusation can be about what stays" in text) == by_table
        assert f"Of {len(accused)} records found beyond the margin, 2 have one." in text
    assert ("Not examined: whether near-duplicates of the forget records stay" in summary(found)) == by_table


@pytest.mark.parametrize(
    "change",
    [
        {"records": 2},
        {"compared": 0},
        {"forget": ()},
        {"forget": ("d" * 32,)},
        {"listed": ()},
        {"records": 50},
        {"forget": ("Ida",)},
    ],
)
def test_near_duplicates_that_do_not_add_up_are_refused(change: dict[str, Any]) -> None:
    """Counts beyond what was compared, other records than those listed, or a name in place of a hash are no such account."""
    pair = Likeness(record="e" * 32, forget="f" * 32, similarity=0.9)
    good: dict[str, Any] = {"compared": 40, "records": 1, "forget": ("f" * 32,), "listed": (pair,)}
    assert NearDuplicatesLeft(**good).counts == {"compared": 40, "records": 1, "forget": 1}
    with pytest.raises(ValidationError):
        NearDuplicatesLeft(**{**good, **change})


@pytest.mark.slow
def test_looks_are_counted_and_named() -> None:
    """Earlier audits of the same weights, and those that they list, stand on page 1; one of other weights is refused."""
    first = evidence_of(simulated_table(references=4)).model_copy(update={"created": "2026-11-20T10:00:00+00:00"})
    second = evidence_of(simulated_table(references=8)).model_copy(update={"created": "2026-11-21T10:00:00+00:00"})
    second = second.model_copy(update={"looks": found_looks([first], second)})
    third = evidence_by_table()
    third = third.model_copy(update={"looks": found_looks([second], third)})
    assert [look.evidence for look in third.looks or ()] == [first.digest, second.digest]
    said = (
        f"This is at least the third audit of these weights. Earlier: {first.verdict} (4 references, 2026-11-20, other records); "
    )
    assert said in summary(third)
    assert said in render(third)
    assert Evidence.model_validate_json(third.text()) == third
    models = tuple(model.model_copy(update={"weights": "f" * 64}) for model in first.models)
    with pytest.raises(InputError, match="look 1 is an audit of the weights"):
        found_looks([first.model_copy(update={"models": models})], third)


def test_an_audit_that_another_lists_is_not_said_to_be_of_other_records_where_it_may_be_of_these() -> None:
    """Of these records, then of others, then of these again: the last names the first as one of its own, given or only listed."""
    first = evidence_of(simulated_table(references=4)).model_copy(update={"created": "2026-11-20T10:00:00+00:00"})
    sets = tuple(one.model_copy(update={"digest": "e" * 64}) if one.role == "forget" else one for one in first.sets)
    second = first.model_copy(update={"created": "2026-11-21T10:00:00+00:00", "sets": sets})
    second = second.model_copy(update={"looks": found_looks([first], second)})
    assert [look.same_records for look in second.looks or ()] == [False]
    third = first.model_copy(update={"created": "2026-11-22T10:00:00+00:00"})
    for earlier in ([second], [first, second], [second, first]):
        found = found_looks(earlier, third) or ()
        assert [(look.evidence, look.same_records) for look in found] == [(first.digest, True), (second.digest, False)]


def test_words_of_shares_and_counts() -> None:
    """Shares, ordinals and rules are said as they are."""
    assert [table_rule_in_words(rule) for rule in (3, 4)] == ["rule 3, which does not compare the controls by level", "rule 4"]
    assert [share_in_words(share) for share in (0.5, 0.25, 0.3)] == ["half", "a quarter", "30 %"]
    look = Look(created="2026-11-20T10:00:00+00:00", verdict="INCONCLUSIVE", judged_by="4 references", evidence="a" * 64)
    assert looks_in_words((look,) * 11).startswith("This is at least the 12th audit")
    assert looks_in_words((look,) * 21).startswith("This is at least the 22nd audit")
