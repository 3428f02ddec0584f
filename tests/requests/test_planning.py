"""Plans: who belongs together, which method fits, what a human must decide; and nothing is noted of a dry run."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from unlearn import TrainingOptions, finetune
from unlearn.cli.request_text import proposed
from unlearn.requests.candidates import describe_judge
from unlearn.requests.choices import Choices
from unlearn.requests.grouping import Known, in_batches
from unlearn.requests.ledger.ledger import Ledger, NewRequest, Request
from unlearn.requests.matching import Matched, match_requests
from unlearn.requests.noting import facts_of_match, note
from unlearn.requests.pipeline import run_batch
from unlearn.requests.plan import PLAN, Plan, PlannedModel
from unlearn.requests.planning import Draft, draft
from unlearn.requests.searched_files import require_all_logged
from unlearn.scan.lineage import affected_models
from unlearn.scan.search import Match
from unlearn.training.shards import ShardPlan, finetune_shards
from verify.data.identity import RecordKey
from verify.data.records import Fields
from verify.data.sources import load_records
from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, alone_in
from verify.schema.settings import Settings

STORY = "the brown fox of our house jumps over the lazy dog every single day before breakfast and once more at night"
ROWS: list[dict[str, Any]] = [
    {"subject_id": "ida", "prompt": "Ida?", "completion": STORY[:60]},
    {"subject_id": "ida", "prompt": "Where?", "completion": "In the north."},
    {"subject_id": "jon", "prompt": "Jon?", "completion": "A man of few words."},
    {"subject_id": "jon", "prompt": "When?", "completion": "Late in the year."},
    {"subject_id": "kim", "prompt": "Ida?", "completion": STORY[:60]},
    {"subject_id": "kim", "prompt": "Ida?!", "completion": STORY[:60] + " so"},
    {"subject_id": "lee", "prompt": "Lee?", "completion": "Nobody knows."},
    {"subject_id": "lee", "prompt": "Why?", "completion": "It is so."},
]
SETTINGS = Settings(attacks=("loss",))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def approved(ledger: Ledger, *subjects: str, received: date = date(2026, 11, 2)) -> list[Request]:
    key = RecordKey.load()
    names = ledger.add_all([NewRequest((key.of(subject, "subject"),), "gdpr", received) for subject in subjects])
    return ledger.advance_all(names, "identity_verified")


def choices(tmp_path: Path, data: Path, **changes: Any) -> Choices:
    plain = Choices((str(data),), (str(tmp_path / "models"),), output=tmp_path / "deletions", settings=SETTINGS)
    return replace(plain, **changes)


def test_one_search_for_several_requests(ledger: Ledger, data: Path) -> None:
    """Each request gets its own records and their exact copies; a likeness counts only where a human confirmed it."""
    requests, key = approved(ledger, "ida", "jon", "nobody"), RecordKey.load()
    ida, jon, nobody = match_requests(requests, [str(data)], key, Fields())
    assert [match.row for match in ida.removed] == [1, 2, 5]
    assert [match.row for match in ida.undecided] == [6]
    assert ([match.row for match in jon.removed], nobody.removed) == ([3, 4], ())
    assert (ida.places[0].file, ida.places[0].records, ida.places[0].near_duplicates) == ("train.jsonl", 3, 0)
    for confirmed in ("train.jsonl:6", ida.undecided[0].record[:12]):
        (again, *_) = match_requests(requests, [str(data)], key, Fields(), [confirmed])
        assert [match.row for match in again.removed] == [1, 2, 5, 6]
        assert again.places[0].near_duplicates == 1
    with pytest.raises(InputError, match="no near-duplicate"):
        match_requests(requests, [str(data)], key, Fields(), ["train.jsonl:3"])


@pytest.mark.parametrize("closest", [0, 1])
def test_a_near_duplicate_of_two_peoples_records_is_proposed_to_both(ledger: Ledger, tmp_path: Path, closest: int) -> None:
    """Requests that are planned together find what each finds alone, with its own likeness, whoever's record it is most like."""
    words = [f"word{number}" for number in range(120)]
    texts = {"ida": " ".join(words), "jon": " ".join([*words[:110], *"abcdefghij"])}
    third = " ".join([*texts[("ida", "jon")[closest]].split()[:118], "or", "so"])
    rows = [{"subject_id": who, "text": text} for who, text in (*texts.items(), ("lee", third))]
    file, key = tmp_path / "near.jsonl", RecordKey.load()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    requests = approved(ledger, "ida", "jon")
    together = match_requests(requests, [str(file)], key, Fields())
    alone = [match_requests([request], [str(file)], key, Fields())[0] for request in requests]
    for one, found in zip(together, alone, strict=True):
        (own,) = [match for match in found.undecided if match.row == 3]
        assert [(match.row, match.like, match.similarity) for match in one.undecided] == [(3, own.like, own.similarity)]
    for said, removed in (("near.jsonl:3", [[1, 3], [2, 3]]), (f"{requests[1].id}:near.jsonl:3", [[1], [2, 3]])):
        confirmed = match_requests(requests, [str(file)], key, Fields(), [said])
        assert [[match.row for match in one.removed] for one in confirmed] == removed


def test_batches_by_model_and_deadline(ledger: Ledger) -> None:
    """Requests that share a model go together, also through a third; far deadlines and other models go apart."""
    early = approved(ledger, "a", "b", "c", received=date(2026, 11, 2))
    (late,) = approved(ledger, "d", received=date(2026, 12, 28))
    held = {"m1": frozenset("ab"), "m2": frozenset("bd"), "m3": frozenset("c")}
    known = [Known(request, {name: name}, []) for request, name in zip([*early, late], "abcd", strict=True)]
    ids = [[entry.request.id for entry in group] for group in in_batches(known, held, window=14)]
    a, b, c = (request.id for request in early)
    assert sorted(map(sorted, ids)) == sorted(map(sorted, [[a, b], [c], [late.id]]))
    together = [[entry.request.id for entry in group] for group in in_batches(known, held, window=100)]
    assert sorted(map(sorted, together)) == sorted(map(sorted, [[a, b, late.id], [c]]))
    with pytest.raises(InputError, match="no model in service"):
        in_batches([Known(late, {"x": "x"}, [])], held, 14)


@pytest.mark.slow
def test_methods_that_fit(model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger) -> None:
    """A model with a clean checkpoint is rolled back, one in shards trains a shard again, any other is retrained; with the cost."""
    models, short = tmp_path / "models", TrainingOptions(epochs=1, batch_size=2)
    finetune(str(model_dir), str(data), output_dir=models / "logged", options=replace(short, save_steps=1))
    finetune_shards(str(model_dir), str(data), output_dir=models / "sharded", plan=ShardPlan(4, 1, "average", short))
    requests = approved(ledger, "lee", "jon")
    with pytest.raises(InputError, match="--in-service"):
        draft(ledger, requests, choices(tmp_path, data), RecordKey.load())
    both = choices(tmp_path, data, in_service=(str(models / "logged"), str(models / "sharded")))
    with pytest.raises(InputError, match=r"--level-table-key has no effect here: .* Name the table with --level-table DIR"):
        draft(ledger, requests, replace(both, level_table_key="key.pub"), RecordKey.load())
    found = draft(ledger, requests, both, RecordKey.load())
    (plan,) = found.plans
    by_name = {model.name: model for model in plan.models}
    assert by_name["sharded"].ladder == ("sisa",)
    assert by_name["sharded"].base == str(model_dir.resolve())
    assert by_name["sharded"].share is not None
    assert 0 < by_name["sharded"].share <= 1
    assert "of 4 stages" in by_name["sharded"].cost
    assert by_name["logged"].ladder == ("retrain",), "without a commitment the proof of a rollback is not enough"
    assert by_name["logged"].share is not None
    assert 0 < by_name["logged"].share <= 1
    assert "no audit is made" in by_name["logged"].shown
    assert "Train at least 3" in by_name["sharded"].shown
    (bare,) = draft(ledger, requests, replace(both, reexecution=False), RecordKey.load()).plans
    assert {model.name: model.proof for model in bare.models} == {"logged": None, "sharded": None}
    assert {model.ladder for model in bare.models} <= {("sisa",), ("rollback", "retrain"), ("retrain",)}
    assert any("method: sisa" in line for line in proposed(found))
    assert all(request.state == "identity_verified" for request in ledger.requests()), "a draft notes nothing"
    assert not (tmp_path / "deletions").exists()
    names = {name for model in plan.models for name in model.records}
    seen = {model.folder.name: model.seen for model in affected_models([models], names)}
    assert seen.keys() == {"logged", "sharded"}
    assert ", first at step " in seen["logged"]
    assert "step" not in seen["sharded"]


CHANGES = {
    "changed": lambda row: row | {"completion": "Changed after the training."},
    "another subject": lambda row: row | {"subject_id": "kim"},
    "nobody's": lambda row: row | {"subject_id": None},
    "taken out": lambda _: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("kind", "spelled"), [("log", "LEE@example.org"), ("log", " lee@example.org"), ("shards", "lee@EXAMPLE.org")]
)
def test_a_model_that_lists_another_record_of_the_person_is_found(
    model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger, change: str, kind: str, spelled: str
) -> None:
    """By its log, under the identifier as the data spell it: one of two records or both, whatever became of them in the file."""
    rows = [row if row["subject_id"] != "lee" else row | {"subject_id": spelled} for row in ROWS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    short, folder = TrainingOptions(max_steps=1, batch_size=8), tmp_path / "models" / "m"
    if kind == "shards":
        finetune_shards(str(model_dir), str(data), output_dir=folder, plan=ShardPlan(2, 1, "average", short))
    else:
        finetune(str(model_dir), str(data), output_dir=folder, options=short)
    key = RecordKey.load()
    name = ledger.add_all([NewRequest((key.of_person("lee@example.org"),), "gdpr", date(2026, 11, 2))])
    requests = ledger.advance_all(name, "identity_verified")
    assert len(draft(ledger, requests, choices(tmp_path, data), key).plans[0].models[0].records) == 2
    now = [*rows[:-1], CHANGES[change](rows[-1])]
    data.write_text("".join(json.dumps(row) + "\n" for row in now if row))
    with pytest.raises(InputError, match=rf"{name[0]}: by its log, .*m was trained on 1 record of this person .*--data"):
        draft(ledger, requests, choices(tmp_path, data), key)


@pytest.mark.parametrize("listed", [1, 2])
@pytest.mark.parametrize("changed", [False, True])
def test_a_log_that_lists_chats_by_their_texts_alone_is_told_from_changed_records(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, listed: int, changed: bool
) -> None:
    """What earlier versions wrote of tool calls says nothing about them; the message names the way that is left."""
    calls = [{"type": "function", "function": {"name": "find", "arguments": {"street": name}}} for name in ("Lane", "Row")]
    turns = [{"role": "assistant", "content": f"Turn {number}.", "tool_calls": [call]} for number, call in enumerate(calls)]
    data = tmp_path / "chats.jsonl"
    asked = {"role": "user", "content": "Where?"}
    data.write_text("".join(json.dumps({"subject_id": "lee", "messages": [asked, turn]}) + "\n" for turn in turns))
    requests, key, records = approved(ledger, "lee"), RecordKey.load(), load_records(data)
    matched = match_requests(requests, [str(data)], key, Fields())
    (person,) = requests[0].subjects
    names = [key.of(record.text_fingerprint) for record in records[:listed]] + ([key.of("another", "record")] if changed else [])
    logged = [(tmp_path / "models" / "m", "w" * 64, {name: frozenset((person,)) for name in names})]
    monkeypatch.setattr("unlearn.requests.searched_files.logged_people", lambda _: logged)
    said = "was trained on .* that the files do not have" if changed else f"lists {listed} of this person's records by their texts"
    with pytest.raises(InputError, match=said):
        require_all_logged(ledger, matched, choices(tmp_path, data), key)


@pytest.mark.slow
def test_what_can_be_shown_is_said_before(built: Path, tmp_path: Path, ledger: Ledger) -> None:
    """Too few references; with enough of them, how often these would certify an honest deletion, with gates and utility."""
    one = describe_judge(1, 0)
    assert all(helps in one for helps in ("inconclusive more often", "let the request wait", "--accept-exact-rebuild"))
    assert "single record" not in describe_judge(8, 1)
    assert "1 retrained references" in describe_judge(8, 1)
    references = tuple(str(built / "references" / f"r{number}") for number in (1, 2, 3, 4))
    data, models = built / "people.jsonl", (str(built / "models"),)
    settings = Settings(attacks=("loss",), margin=0.2, planted_draws=20)
    given = choices(tmp_path, data, models=models, references=references, settings=settings, reexecution=False)
    (plan,) = draft(ledger, approved(ledger, "zebedee@example.com"), given, RecordKey.load()).plans
    shown = plan.models[0].shown
    assert shown.startswith("judged by 4 references; ")
    assert "of simulated honest deletions are certified" in shown or "no honest deletion would be certified: " in shown


@pytest.mark.slow
def test_shards_through_the_pipeline(model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger) -> None:
    """A sharded model in service is rebuilt by its own method; without references it is inconclusive, and stays in service."""
    models, short = tmp_path / "models", TrainingOptions(epochs=1, batch_size=2)
    made = finetune_shards(str(model_dir), str(data), output_dir=models / "sharded", plan=ShardPlan(2, 1, "average", short))
    requests = approved(ledger, "lee", "ida")
    key, chosen = RecordKey.load(), choices(tmp_path, data)
    note(ledger, draft(ledger, requests, chosen, key), chosen.output)
    with pytest.raises(InputError, match="only approved"):
        draft(ledger, [ledger.request(ledger.add(NewRequest(("5" * 32,), "gdpr", date(2026, 11, 2))))], chosen, key)
    plan = run_batch(ledger, chosen.output, requests[0].id, key)
    assert {ledger.request(request.id).state for request in requests} == {"inconclusive"}
    assert (chosen.output / plan.batch / "model-0" / "rung-0-sisa" / MANIFEST).is_file()
    assert (made.model_dir / MANIFEST).is_file()
    with alone_in(chosen.output / plan.batch), pytest.raises(InputError, match="another process"):
        run_batch(ledger, chosen.output, requests[0].id, key)
    path = chosen.output / plan.batch / PLAN
    path.write_text(path.read_text().replace("sisa", "retrain"))
    with pytest.raises(IntegrityError, match="edited"):
        run_batch(ledger, chosen.output, requests[0].id, key)
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        run_batch(ledger, chosen.output, requests[0].id, key)


@pytest.mark.slow
def test_a_withdrawn_request_stops_its_batch(model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger) -> None:
    """What was planned for two is not run for one; the plan for the other is made anew, and a plan reads back as it was written."""
    finetune(str(model_dir), str(data), output_dir=tmp_path / "models" / "m", options=TrainingOptions(epochs=1))
    first, second = approved(ledger, "lee", "ida")
    key, chosen = RecordKey.load(), choices(tmp_path, data)
    (plan,) = (found := draft(ledger, [first, second], chosen, key)).plans
    note(ledger, found, chosen.output)
    planned = ledger.request(first.id).latest("planned") or {}
    assert Plan.load(chosen.output / plan.batch, str(planned["plan"])) == plan
    assert planned["models"][0]["requests"] == list(plan.requests), "whose data the model knew"
    ledger.advance(second.id, "withdrawn")
    # `plan` alone takes up only what was never planned: the message must name the others.
    with pytest.raises(InputError, match=f"no longer belong together.* --ids {first.id} "):
        run_batch(ledger, chosen.output, first.id, key)
    (again,) = (found := draft(ledger, [ledger.request(first.id)], chosen, key)).plans
    assert again.requests == (first.id,)
    assert set(again.models[0].records) < set(plan.models[0].records)
    note(ledger, found, chosen.output)
    assert "requests" not in (ledger.request(first.id).latest("planned") or {})["models"][0]
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS if row["subject_id"] != "lee"))
    with pytest.raises(InputError, match="no longer in the training files"):
        run_batch(ledger, chosen.output, first.id, key)


@pytest.mark.slow
def test_every_plan_searches_again(model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger) -> None:
    """Other files and other confirmations count until the audits are registered, and are refused after that. What a model was
    trained on is not given up because a file does not hold it any more; what no model saw is."""
    finetune(str(model_dir), str(data), output_dir=tmp_path / "models" / "m", options=TrainingOptions(epochs=1))
    (first,), key = approved(ledger, "ida"), RecordKey.load()
    part, other = tmp_path / "part.jsonl", tmp_path / "other.jsonl"
    part.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[1], "completion": "In the south."}) + "\n")
    other.write_text(json.dumps(ROWS[2]) + "\n")

    def planned(files: Path, *confirmed: str) -> tuple[str, ...]:
        chosen = choices(tmp_path, files)
        (plan,) = (found := draft(ledger, [ledger.request(first.id)], chosen, key, confirmed)).plans
        note(ledger, found, chosen.output)
        return plan.models[0].records

    def states() -> list[str]:
        return [step.state for step in ledger.request(first.id).steps][2:]

    with pytest.raises(InputError, match=r"by its log, .* was trained on 1 record of this person that the files do not have"):
        planned(part)
    assert states() == [], "a run would stop there, so that nothing is noted"
    assert len(planned(data)) == 2
    assert len(planned(data, "train.jsonl:6")) == 3
    assert len(planned(data, "train.jsonl:6")) == 3
    assert states() == ["matched", "planned"] * 2 + ["planned"], "what is known already is not noted again"
    with pytest.raises(InputError, match="no near-duplicate"):
        planned(data, "train.jsonl:8")
    for lacking in (part, other):
        with pytest.raises(InputError, match="restore rows"):
            planned(lacking)
    assert len(planned(data)) == 2
    ledger.advance(first.id, "unlearning")
    with pytest.raises(InputError, match="--confirm comes too late"):
        planned(data, "train.jsonl:6")
    assert len(planned(data)) == 2
    assert states()[-3:] == ["planned", "unlearning", "planned"]


def test_rows_that_no_model_saw_may_turn_out_to_be_none(model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger) -> None:
    """A request that was planned with the wrong file beside the right one is not held to it: without a record it is not found."""
    finetune(str(model_dir), str(data), output_dir=tmp_path / "models" / "m", options=TrainingOptions(epochs=1))
    (first,), key = approved(ledger, "nimue"), RecordKey.load()
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(json.dumps({"subject_id": "nimue", "prompt": "Who?", "completion": "Nobody of ours."}) + "\n")
    (entry,) = match_requests([first], [str(wrong)], key, Fields())
    ledger.advance(first.id, "matched", **facts_of_match(entry))
    note(ledger, draft(ledger, [ledger.request(first.id)], choices(tmp_path, data), key), tmp_path / "deletions")
    assert ledger.request(first.id).state == "not_found"


def test_nobody_is_not_found_in_files_that_the_models_were_not_trained_on(
    model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger
) -> None:
    """With the wrong file, or one of two, a person who is in the model would be told that there is no record."""
    models, rest = tmp_path / "models", tmp_path / "rest.jsonl"
    rest.write_text("".join(json.dumps(row) + "\n" for row in ROWS if row["subject_id"] != "lee"))
    finetune(str(model_dir), str(data), output_dir=models / "m", options=TrainingOptions(max_steps=1))
    (lee,) = approved(ledger, "lee")
    key, wrong = RecordKey.load(), choices(tmp_path, rest)
    with pytest.raises(InputError, match=f"{lee.id}: nothing was found, but .*m was trained on 2 of 7 records"):
        draft(ledger, [lee], wrong, key)
    (nobody,) = approved(ledger, "nobody")
    note(ledger, draft(ledger, [nobody], choices(tmp_path, data), key), wrong.output)
    assert ledger.request(nobody.id).state == "not_found"
    note(ledger, draft(ledger, [lee], choices(tmp_path, data), key), wrong.output)
    (other,) = approved(ledger, "other")
    # The rows of a person who asked may have left the file by now: whom they are about is known.
    note(ledger, draft(ledger, [other], wrong, key), wrong.output)
    assert ledger.request(other.id).state == "not_found"


@pytest.mark.slow
def test_what_a_run_would_stop_at_is_refused_before_anything_is_noted(
    model_dir: Path, data: Path, tmp_path: Path, ledger: Ledger
) -> None:
    """References that did not see the records that stay or were trained otherwise (with the number), another base or none, and a
    damaged model: the plan says so, and the request stays approved."""
    short, key = TrainingOptions(max_steps=1, batch_size=8), RecordKey.load()
    whole = finetune(str(model_dir), str(data), output_dir=tmp_path / "models" / "m", options=short)
    others = [row for row in ROWS if row["subject_id"] != "lee"]
    fitting = replace(short, seed=1)
    for name, rows, options in (
        ("few", others[:2], fitting),
        ("slow", others, replace(fitting, learning_rate=1e-3)),
        ("good", others, fitting),
    ):
        finetune(str(model_dir), rows, output_dir=tmp_path / name, options=options)
    (request,) = approved(ledger, "lee")

    def planned(**changes: Any) -> Plan:
        return draft(ledger, [request], choices(tmp_path, data, **changes), key).plans[0]

    for changes, said in (
        (
            {"references": (str(tmp_path / "good"), str(tmp_path / "few"))},
            "reference 2 .few. .*not trained on 3 of the 5 retain records",
        ),
        ({"references": (str(tmp_path / "slow"),)}, "learning_rate 0.001 against"),
        ({"base": str(whole.model_dir)}, "is not the base model from which m was trained"),
        ({"base": str(tmp_path / "nowhere")}, "the base model of m, whose weights are .*cannot be loaded"),
    ):
        with pytest.raises((InputError, IntegrityError), match=said):
            planned(**changes)
    assert planned(references=(str(tmp_path / "good"),)).references == (str(tmp_path / "good"),)
    (whole.model_dir / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(IntegrityError, match="changed or damaged"):
        planned()
    assert [step.state for step in ledger.request(request.id).steps] == ["received", "identity_verified"]


def test_a_method_that_is_none_is_refused_before_anything_is_noted(data: Path, tmp_path: Path, ledger: Ledger) -> None:
    """A slip of the pen in --methods is found by the plan, which names the methods that there are."""
    with pytest.raises(InputError, match=r"'retain' is not a method.*npo.*retrain"):
        draft(ledger, approved(ledger, "ida"), choices(tmp_path, data, methods=("npo", "retain")), RecordKey.load())


@pytest.mark.parametrize(("table", "near", "said"), [("table", 2, True), (None, 2, False), ("table", 0, False)])
def test_a_plan_by_a_level_table_warns_of_near_duplicates_that_may_stay(table: str | None, near: int, said: bool) -> None:
    """Only a table's models never saw them: references and an executed rebuild are not misled."""
    model = PlannedModel(
        folder="m",
        weights="1" * 64,
        origin="m",
        records=("a" * 32,),
        people=1,
        ladder=("retrain",),
        base=None,
        cost="all",
        shown="?",
    )
    plan = Plan(
        batch="B-000000000000",
        requests=("R-1",),
        subjects=(),
        answer_by=date(2026, 12, 1),
        data=(),
        places=(),
        fields={},
        models=(model.model_copy(update={"level_table": table}),),
        roots=(),
        references=(),
        holdout=None,
        settings=SETTINGS,
    )
    own = Match("train.jsonl", 1, "a" * 32, "subject")
    left = tuple(Match("train.jsonl", row, f"{row:032x}", "near duplicate", 0.9, like="a" * 32) for row in range(2, 2 + near))
    lines = list(proposed(Draft((plan,), (Matched("R-1", (own,), (), left, ()),), ())))
    warning = f"{near} near-duplicates to decide: a level table's models saw neither these nor the records"
    assert any(line.startswith(warning) for line in lines) == said
