"""The request desk with a level table: who is judged by what, which controls go where, and what leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deletion_world import PEOPLE, rows
from level_tables import rows_that_left, write_invented

from unlearn.methods import method_classes
from unlearn.purge.find import UNSEARCHED, find_residues, remove
from unlearn.requests.attempt import _configured, require_calibration
from unlearn.requests.audit_inputs import holdout_of
from unlearn.requests.batch_proposal import describe_audit
from unlearn.requests.level_tables import Judge, carry, controls_beside, judge_of, take_out
from unlearn.requests.plan import Plan, PlannedProof
from verify.data.clusters import subject_clusters
from verify.data.identity import RecordKey
from verify.data.records import Fields, parse_records
from verify.errors import InputError
from verify.io.envelopes import make_key
from verify.io.files import file_digest, read_json, verify_manifest, write_manifest
from verify.models.loading import load_model
from verify.provenance.descent import trained_records
from verify.provenance.holdout import CONTROLS, KIND, write_halves
from verify.provenance.level_table import FOLDER, LevelTable
from verify.provenance.pool_design import Member

CONTROL_PEOPLE = ["Ondine", "Peregrine", "Rosalind", "Thaddeus"]


@pytest.fixture
def original(built: Path, tmp_path: Path) -> Path:
    """The original of the world with an invented table over its records, and controls beside it."""
    shutil.copytree(built / "models" / "original", tmp_path / "models" / "original")
    folder, key = tmp_path / "models" / "original", RecordKey.load()
    held = rows(CONTROL_PEOPLE)
    write_halves(held, parse_records(held, Fields(), "held"), folder / CONTROLS, "held")
    write_manifest(folder / CONTROLS, KIND)
    members = []
    for half, name in ((None, ""), ("method", "holdout-method.jsonl"), ("audit", "holdout-audit.jsonl")):
        given = rows(PEOPLE) if half is None else held
        records = parse_records(given, Fields(), "rows")
        text = (folder / CONTROLS / name).read_text() if name else ""
        owners = subject_clusters(records, key)
        members += [
            Member(key.of(record.fingerprint), key.of(owner, "subject"), half)  # type: ignore[arg-type]
            for record, owner in zip(records, owners, strict=True)
            if half is None or f'"{record.example_id}"' in text
        ]
    weights = read_json(folder / "manifest.json")["about"]["weights"]
    write_invented(folder / FOLDER, members, original=weights)
    return folder


def test_a_model_is_judged_by_the_table_in_its_folder(original: Path, tmp_path: Path) -> None:
    """The table is found by itself, also for a model that a deletion made; another model's is refused where it is named."""
    names = sorted(trained_records(original))[:4]
    judge = judge_of(original, [], None, names, 2)
    assert judge is not None
    assert judge.folder == (original / FOLDER).resolve()
    assert "without retraining" in judge.words
    made = tmp_path / "made"
    made.mkdir()
    weights = read_json(original / "manifest.json")["about"]["weights"]
    write_manifest(made, "model", {"method": "npo", "weights": "a" * 64, "weights_before": "b" * 64, "unlearned_from": [weights]})
    found = judge_of(made, [original], None, names, 1)
    assert found is not None
    assert "not that it succeeded" in found.words
    carry(original / FOLDER, made)
    assert judge_of(made, [], None, names, 1) is not None
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    write_manifest(stranger, "model", {"weights": "c" * 64})
    assert judge_of(stranger, [original], None, names, 2) is None
    with pytest.raises(InputError, match="another model before unlearning"):
        judge_of(stranger, [], str(original / FOLDER), names, 2)
    assert judge_of(original, [], None, [*names, "0" * 32], 1) is None
    with pytest.raises(InputError, match="no row of 1 of 5 records"):
        judge_of(original, [], str(original / FOLDER), [*names, "0" * 32], 1)


def test_method_and_audit_never_get_the_same_controls(original: Path) -> None:
    """Each half is the table's, they share nobody, and a missing control of the audit is noticed."""
    table, key = LevelTable.open(original / FOLDER), RecordKey.load()
    found = controls_beside(original / FOLDER, None, Fields(), key)
    names = {half: {key.of(record.fingerprint) for record in getattr(found, half)} for half in ("method", "audit")}
    assert names == {half: set(table.controls(half)) for half in ("method", "audit")}  # type: ignore[arg-type]
    people = [{record.subject_id for record in getattr(found, half)} for half in ("method", "audit")]
    assert not people[0] & people[1]
    assert all(len(who) == 2 for who in people)
    path = original / CONTROLS / "holdout-audit.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="1 of 16 controls of the audit are missing"):
        controls_beside(original / FOLDER, None, Fields(), key)


def test_a_search_for_copies_finds_rows_of_tables_and_lines_of_controls(original: Path) -> None:
    """What `unlearn purge` removes for a person who is a control: rows and lines, nothing else; the table still opens."""
    (person,) = [rows([one]) for one in CONTROL_PEOPLE[:1]]
    records, key = parse_records(person, Fields(), "rows"), RecordKey.load()
    found = find_residues([original], records=records, key=key, affected=[], rewrite_data=True)
    assert sorted((entry.kind, entry.removable) for entry in found) == [("level table", True), ("training data", True)]
    assert remove(found) == []
    assert find_residues([original], records=records, key=key, affected=[], rewrite_data=True) == []
    table = LevelTable.open(original / FOLDER)
    assert rows_that_left(table) == (8, 8)
    left = controls_beside(original / FOLDER, None, Fields(), key)
    assert len(left.method) + len(left.audit) == 3 * 8
    carry(original / FOLDER, original.parent / "made")
    assert len(controls_beside(original.parent / "made" / FOLDER, None, Fields(), key).audit) == len(left.audit)


def test_a_table_that_cannot_be_searched_is_listed(original: Path) -> None:
    """A table without a manifest that fits may hold rows of the person: it is neither changed nor passed over."""
    records, key = parse_records([rows([PEOPLE[0]])[0]], Fields(), "rows"), RecordKey.load()
    (original / FOLDER / "manifest.json").write_text("{}")
    (found,) = (
        entry
        for entry in find_residues([original], records=records, key=key, affected=[])
        if entry.place == (original / FOLDER).resolve()
    )
    assert (found.how, found.removable) == (UNSEARCHED, False)
    assert "not searched: it is a level table that is unfinished" in found.reason
    assert remove([found]) == [found]
    others = parse_records([rows(["Uriah"])[0]], Fields(), "rows")
    assert find_residues([original], records=others, key=key, affected=[]) == [], "readable, and without a row of this person"
    (original / FOLDER / "table.json").write_text("{}")
    damaged = {entry.place: entry.reason for entry in find_residues([original], records=others, key=key, affected=[])}
    assert "a damaged level table" in damaged[(original / FOLDER).resolve()]


@pytest.mark.parametrize(("left", "sources"), [(2, ("table",)), (1, ("mixture",)), (0, ("mixture",))])
def test_level_reads_the_table_only_while_controls_of_the_method_are_left(
    tmp_path: Path, left: int, sources: tuple[str, ...]
) -> None:
    """With fewer than two of them the method would fail at `run`, after the audit was registered; it then uses its own source."""
    key, held = RecordKey.load(), rows(CONTROL_PEOPLE)
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    records = parse_records(held, Fields(), "held")
    names = [Member(key.of(record.fingerprint), key.of(record.fingerprint, "subject"), "audit") for record in records]
    method = [Member(member.record, member.subject, "method") for member in names[:left]]
    people = [Member(key.of(f"{number}"), key.of(f"{number}", "subject"), None) for number in range(8)]
    write_invented(tmp_path / FOLDER, [*people, *method, *names[left:]], models=8, left_out=4)
    write_manifest(tmp_path / FOLDER, "level table")
    plan: Any = SimpleNamespace(holdout=str(tmp_path / "held.jsonl"), columns=Fields())
    model: Any = SimpleNamespace(level_table=str(tmp_path / FOLDER), base="base")
    assert _configured(method_classes()["level"], plan, model, "level").sources == sources
    assert len(holdout_of(plan, model)[0] or ()) == (left if left > 1 else 0), "one control calibrates nothing"


def test_too_few_tokens_to_calibrate_on_are_refused_at_the_plan(
    original: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `level` would refuse at `run`, after the audit was registered; a method that reads no controls is not stopped."""
    plan: Any = SimpleNamespace(holdout=None, columns=Fields())
    model: Any = SimpleNamespace(level_table=str(original / FOLDER), origin=str(original), ladder=("level", "retrain"))
    loaded = load_model(model_dir)
    require_calibration(plan, model, loaded)
    monkeypatch.setattr("unlearn.level.estimate.TOKENS_PER_FEATURE", 10_000)
    with pytest.raises(InputError, match="calibrated on at least 50000"):
        require_calibration(plan, model, loaded)
    model.ladder = ("retrain",)
    require_calibration(plan, model, loaded)


Shell = Callable[..., tuple[int, str]]


@pytest.mark.slow
def test_a_plan_uses_the_table_unless_references_are_named(
    original: Path, built: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`request plan` names the table as the judge; with references it does not; both at once are refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setattr("unlearn.requests.planning.describe_power", lambda *_: "simulated elsewhere")
    shutil.copy(built / "people.jsonl", "people.jsonl")
    name = shell("add", stdin="zebedee@example.com\n")[1].strip()
    shell("approve", name)
    words = ["plan", "--data", "people.jsonl", "--models", "models", "--base", str(built / "base"), "--dry-run"]
    status, said = shell(*words)
    assert (status, "judged by the level table" in said) == (0, True), said
    assert "an audit will show: judged by the level table" in shell(*words, "--no-reexecution")[1]
    references = ["--references", *(str(built / "references" / f"r{number}") for number in (1, 2, 3, 4))]
    assert "level table" not in shell(*words, *references)[1]
    status, said = shell(*words, *references, "--level-table", str(original / FOLDER))
    assert (status, "Give one of them" in said) == (2, True)
    make_key(tmp_path / "somebody.key")
    status, said = shell(*words, "--level-table-key", str(tmp_path / "somebody.key.pub"))
    assert (status, "not by the key that you gave" in said) == (2, True), "nobody signed the table"
    assert shell(*words[:-1])[0] == 0
    (plan,) = (tmp_path / "deletions").glob("B-*/plan.json")
    assert read_json(plan)["models"][0]["level_table"] == str((original / FOLDER).resolve())


def test_a_plan_promises_no_audit_that_is_not_made() -> None:
    """Where the re-execution is enough, nothing is audited, by a table or otherwise; where it cannot be made, the table judges."""
    judge = Judge(Path("table"), "judged by the level table")
    proof = PlannedProof(commitment="commitment.json", share=0.5, words="executed again")
    assert describe_audit(("retrain",), proof, ["r"], 0, judge).startswith("nothing, as the rebuild is executed again; if that")
    for other in (None, PlannedProof(commitment=None, share=None, words="no log")):
        assert describe_audit(("retrain",), other, ["r"], 0, judge) == judge.words
    assert describe_audit(("level", "retrain"), proof, ["r"], 0, judge) == judge.words


@pytest.mark.slow
def test_a_persons_rows_leave_every_table_and_every_file_of_controls(
    original: Path, built: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At closing, rows and lines go, the leaves stay, and manifests and root hold; a second time nothing happens."""
    test_a_plan_uses_the_table_unless_references_are_named(original, built, tmp_path, shell, monkeypatch)
    (path,) = (tmp_path / "deletions").glob("B-*/plan.json")
    plan, key = Plan.load(path.parent, file_digest(path)), RecordKey.load()
    copied = tmp_path / "deletions" / "new"
    carry(original / FOLDER, copied)
    assert take_out(plan, tmp_path / "deletions", key) == 2 * 8
    assert take_out(plan, tmp_path / "deletions", key) == 0
    for folder in (original, copied):
        table = LevelTable.open(folder / FOLDER)
        assert rows_that_left(table) == (8, 0)
        assert not any(name in table for name in plan.records)
        verify_manifest(folder / FOLDER)
        verify_manifest(folder / CONTROLS)
    verify_manifest(original, "model")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    members = [Member(name, name, None) for name in sorted(trained_records(original))]
    write_invented(elsewhere / FOLDER, members, original=LevelTable.open(original / FOLDER).header.original)
    named = plan.model_copy(update={"models": (plan.models[0].model_copy(update={"level_table": str(elsewhere / FOLDER)}),)})
    named = named.model_copy(update={"roots": (str(original.parent),)})
    assert take_out(named, tmp_path / "deletions", key) == 8, "the table that judged, outside of the searched folders"
    held = original / CONTROLS / "holdout-method.jsonl"
    kept = json.dumps({**rows(["Uriah"])[0], "completion": "one\u2028two\u0085three"}, ensure_ascii=False)
    held.write_text(f"{held.read_text()}{kept}\n")  # what only Python takes for ends of lines
    before = held.read_text().splitlines()
    (one,) = (key.of(record.fingerprint) for record in parse_records([rows(CONTROL_PEOPLE)[0]], Fields(), "row"))
    other = plan.model_copy(update={"models": (plan.models[0].model_copy(update={"records": (one,)}),)})
    assert take_out(other, tmp_path / "deletions", key) == 2
    after = [line for name in ("method", "audit") for line in (held.with_name(f"holdout-{name}.jsonl")).read_text().splitlines()]
    assert len(after) == 4 * 8 - 1 + 3
    assert f"{kept}\n" in held.read_text()
    assert set(held.read_text().splitlines()) <= set(before)
