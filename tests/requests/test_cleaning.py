"""What is left is named without naming anybody, and stays only for a reason."""

import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ledger_walks import MODELS, walk
from plans import MODEL
from training_rows import make_rows

from unlearn import TrainingOptions, finetune
from unlearn.purge.residue import CannotCleanError
from unlearn.requests.attestation import _learned_from, _residual
from unlearn.requests.batch_folder import FOUND
from unlearn.requests.choices import Choices
from unlearn.requests.cleanup import clean
from unlearn.requests.copies_left import HASHED, IN_FILE, IN_SERVICE, Left, carried_over, read_reasons
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from unlearn.requests.noting import note
from unlearn.requests.plan import Plan
from unlearn.requests.planning import draft
from unlearn.requests.request_facts import facts_of
from unlearn.scan.lineage import affected_models
from verify.data.identity import RecordKey, plainly, telling_parts
from verify.data.sources import load_records
from verify.errors import InputError
from verify.schema.settings import Settings

ROWS = make_rows("forget", 8)
ASKING = ROWS[0]["subject_id"]


@pytest.fixture
def planned(ledger: Ledger, model_dir: Path, tmp_path: Path) -> tuple[Path, Plan]:
    """A batch that removes one person's record from one model; its folder and plan."""

    data, models = tmp_path / "models" / "train.jsonl", tmp_path / "models"
    models.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    finetune(str(model_dir), str(data), output_dir=models / "served", options=TrainingOptions(epochs=1))
    key = RecordKey.load()
    name = ledger.add(NewRequest((key.of(ASKING, "subject"),), "gdpr", date(2026, 11, 2)))
    request = ledger.advance(name, "identity_verified")
    chosen = Choices((str(data),), (str(models),), output=tmp_path / "deletions", settings=Settings(attacks=("loss",)))
    found = draft(ledger, [request], chosen, key)
    note(ledger, found, chosen.output)
    (plan,) = found.plans
    return chosen.output / plan.batch, plan


def test_what_stays_has_a_reason_or_is_asked_for(planned: tuple[Path, Plan], ledger: Ledger, tmp_path: Path) -> None:
    """A log is removed or unexplained; the old model stays while it serves; rows of the training file must go before the end."""
    folder, plan = planned
    key, models = RecordKey.load(), tmp_path / "models"
    (models / f"{ASKING}.log").write_text(ROWS[0]["completion"])
    seen = clean(ledger, folder, plan, key)
    assert [copy["kind"] for copy in seen.unexplained] == ["log"]
    assert {copy["reason"] for copy in seen.residual} == {"", IN_SERVICE, IN_FILE}
    assert ASKING.lower() not in str(seen).lower(), "a telling name is a keyed hash"
    kept = clean(ledger, folder, plan, key, reasons={seen.unexplained[0]["place"]: "a court asked for it"})
    assert not kept.unexplained
    killed = mock.patch("unlearn.purge.find.remove", side_effect=KeyboardInterrupt)
    with killed, pytest.raises(KeyboardInterrupt):
        clean(ledger, folder, plan, key, remove=True)
    (models / f"{ASKING}.log").unlink()  # it was removed, and the process died before it could say so
    done = clean(ledger, folder, plan, key, remove=True)
    assert (dict(done.removed), done.unexplained) == ({"log": 1}, ())
    assert (models / "served").is_dir()
    weights = plan.models[0].weights
    last = clean(ledger, folder, plan, key, retired=[weights], closing=True)
    assert sorted(copy["kind"] for copy in last.unexplained) == ["model", "training file, 1 row"]
    how: dict[str, Any] = {"retired": [weights], "remove": True, "closing": True}
    blocked = clean(ledger, folder, plan, key, **how)
    assert (len(blocked.unexplained), (models / "served").exists()) == (2, True), "nothing goes while something else is open"
    without_the_asking(models / "train.jsonl")
    gone = clean(ledger, folder, plan, key, **how)
    assert (dict(gone.removed), gone.unexplained, (models / "served").exists()) == ({"log": 1, "model": 1}, (), False)


def test_no_name_of_a_person_gets_into_the_ledger(planned: tuple[Path, Plan], ledger: Ledger, tmp_path: Path) -> None:
    """A copy is called after a person in any spelling, or nobody knows any more after whom: ledger and record get a keyed hash, and
    only the operator is told its name; reasons are taken by either."""
    folder, plan = planned
    key, models = RecordKey.load(), tmp_path / "models"
    person = ASKING.partition("-")[2]
    names = [f"{person}.log", f"For_Get {person.upper()}.log", f"notes/{ASKING.replace('-', '')}.log", "plain.log"]
    for name in names:
        (models / name).parent.mkdir(exist_ok=True)
        (models / name).write_text(ROWS[0]["completion"])
    seen = clean(ledger, folder, plan, key)
    assert person.lower() not in plainly(str(seen.residual)), "the ledger and the record"
    assert {copy["place"] for copy in seen.residual if not copy["place"].startswith(HASHED)} == {
        "plain.log",
        "served",
        "train.jsonl",
    }
    assert sorted(copy["place"] for copy in seen.unexplained) == sorted(names), "the operator"
    hashed = next(copy["place"] for copy in seen.residual if seen.shown[copy["place"]] == names[0])
    given = {hashed: "a court asked for it", "notes": "the same", names[1]: "the same", "plain.log": "the same"}
    assert not clean(ledger, folder, plan, key, reasons=given).unexplained
    (models / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS if row["subject_id"] != ASKING))
    blind = clean(ledger, folder, plan, key, retired=[plan.models[0].weights], closing=True)
    by_search = [copy["place"] for copy in blind.residual if copy["kind"] == "model"]
    assert by_search
    assert all(place.startswith(HASHED) for place in by_search), "without texts every name is one that might tell"
    assert "served" in [copy["place"] for copy in blind.unexplained]


def test_what_tells_of_a_person() -> None:
    """The whole identifier and its parts of four characters or more, spelled plainly; a domain is nobody's name."""
    assert telling_parts("Quillon@example.com") == {"quillonexamplecom", "quillon"}
    assert telling_parts("Jos\u00e9_P\u00c9REZ-li 1985") == {"joseperezli1985", "jose", "perez", "1985"}
    assert telling_parts("Jose\u0301") == {"jose"}
    assert telling_parts("ann.lee@x.org") == {"annleexorg", "annlee"}, "also where no part of it is long"
    assert telling_parts("\u674e\u660e@x.org") == {"\u674e\u660exorg", "\u674e\u660e"}
    assert telling_parts("a") == telling_parts("--") == set()


def test_an_explained_copy_is_listed_once(tmp_path: Path) -> None:
    """A copy that was noted by its name, and is noted by a keyed hash now that nothing tells whose name it is, is one copy."""
    (tmp_path / "kept.log").write_text("x")
    earlier = [{"place": "kept.log", "kind": "log", "reason": "a court asked for it"}]
    now = {"place": f"{HASHED} 1", "kind": "log", "reason": "a court asked for it"}
    found = carried_over(earlier, Left((now,), {}, {f"{HASHED} 1": "kept.log"}), [str(tmp_path)])
    assert found.residual == (now,)


def without_the_asking(train: Path) -> None:
    train.write_text("".join(json.dumps(row) + "\n" for row in ROWS if row["subject_id"] != ASKING))


def test_nothing_goes_while_a_copy_has_no_reason(planned: tuple[Path, Plan], ledger: Ledger, tmp_path: Path) -> None:
    """A copy that the tool cannot remove keeps rows and old weights where they are, however often it is asked; once it is
    explained, all goes. Its place tells of the person, and is told by nothing that is kept."""
    folder, plan = planned
    key, models = RecordKey.load(), tmp_path / "models"
    note_about, whole = models / f"{ASKING}.md", (models / "train.jsonl").read_text()
    note_about.write_text(ROWS[0]["completion"])
    how: dict[str, Any] = {"retired": [plan.models[0].weights], "remove": True, "closing": True, "rewrite_data": True}
    for _ in range(2):
        refused = clean(ledger, folder, plan, key, **how)
        assert sorted(copy["kind"] for copy in refused.unexplained) == ["model", "other file", "training file, 1 row"]
        assert ((models / "train.jsonl").read_text(), (models / "served").is_dir(), dict(refused.removed)) == (whole, True, {})
    place = next(copy["place"] for copy in refused.unexplained if copy["kind"] == "other file")
    done = clean(ledger, folder, plan, key, **how, reasons={place: "a court asked for it"})
    assert ([done.shown[copy["place"]] for copy in done.residual], done.unexplained) == ([place], ())
    assert not (models / "served").exists()
    assert ASKING not in (models / "train.jsonl").read_text()
    assert ASKING.lower() not in (folder / FOUND).read_text().lower()


@pytest.mark.parametrize("telling", [False, True])
def test_what_was_found_once_is_gone_or_explained(
    planned: tuple[Path, Plan], ledger: Ledger, tmp_path: Path, telling: bool
) -> None:
    """Rows that were taken out by hand leave nothing to search for: what a search had found until then is still asked for, until
    it is gone or has a reason. With all texts there, a file that was mended by hand is believed."""
    folder, plan = planned
    key, models = RecordKey.load(), tmp_path / "models"
    copy, mended = models / (f"{ASKING}.md" if telling else "notes.md"), models / "mended.md"
    for path in (copy, mended):
        path.write_text(ROWS[0]["completion"])
    assert len(clean(ledger, folder, plan, key, remove=True).unexplained) == 2
    mended.write_text("Nothing about anybody.")
    assert len(clean(ledger, folder, plan, key, remove=True).unexplained) == 1
    without_the_asking(models / "train.jsonl")
    how: dict[str, Any] = {"retired": [plan.models[0].weights], "remove": True, "closing": True}
    for _ in range(2):
        refused = clean(ledger, folder, plan, key, **how)
        (other,) = (found for found in refused.unexplained if found["kind"] != "model")
        assert (other["kind"], "earlier search" in other["why"]) == ("other file", True)
        assert (models / "served").is_dir()
    explained = clean(ledger, folder, plan, key, closing=True, reasons={other["place"]: "a court asked for it"})
    assert [found["kind"] for found in explained.residual if found["reason"] == "a court asked for it"] == ["other file"]
    copy.unlink()
    done = clean(ledger, folder, plan, key, **how)
    assert (done.residual, (models / "served").exists()) == ((), False)


def test_what_fails_to_go_keeps_what_it_is_known_by(planned: tuple[Path, Plan], ledger: Ledger, tmp_path: Path) -> None:
    """A log that should have been mended, and could not: rows and old weights stay for the next search, which finds it again."""
    folder, plan = planned
    key, models = RecordKey.load(), tmp_path / "models"
    (models / "run.log").write_text(ROWS[0]["completion"])
    how: dict[str, Any] = {"retired": [plan.models[0].weights], "remove": True, "closing": True, "rewrite_data": True}
    with mock.patch("unlearn.purge.redact.cut_lines", side_effect=CannotCleanError("it is in use")):
        refused = clean(ledger, folder, plan, key, **how)
    assert {copy["kind"]: copy["why"] for copy in refused.unexplained}["log"] == "it is in use"
    assert (models / "served").is_dir()
    assert ASKING in (models / "train.jsonl").read_text()
    done = clean(ledger, folder, plan, key, **how)
    assert (done.residual, dict(done.removed)) == ((), {"log": 1, "model": 1, "training file": 1})


@pytest.mark.slow
def test_a_batch_tells_persons_apart(ledger: Ledger, model_dir: Path, tmp_path: Path) -> None:
    """Of each copy that stays or goes the ledger knows whose data it held: by its text, by the model's log, or not at all; after a
    kill in between, and once the texts are gone, as well as before."""
    data, models, key = tmp_path / "train.jsonl", tmp_path / "models", RecordKey.load()
    models.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = TrainingOptions(epochs=1, batch_size=2, save_steps=1, lora=True)
    finetune(str(model_dir), str(data), output_dir=models / "served", options=options)
    asked = [ledger.add(NewRequest((key.of(ROWS[n]["subject_id"], "subject"),), "gdpr", date(2026, 11, 2))) for n in (0, 1)]
    approved = [ledger.advance(name, "identity_verified") for name in asked]
    chosen = Choices((str(data),), (str(models),), output=tmp_path / "deletions", settings=Settings(attacks=("loss",)))
    found = draft(ledger, approved, chosen, key)
    note(ledger, found, chosen.output)
    (plan,) = found.plans
    folder, both, (first, second) = chosen.output / plan.batch, list(plan.requests), asked
    texts = [row["completion"] for row in ROWS]
    for name, content in (("of-one.log", texts[0]), ("of-both.log", f"{texts[0]}\n{texts[1]}"), ("note.md", texts[1])):
        (models / name).write_text(content)
    (models / "sealed.age").write_text("age-encryption.org/v1\n")
    seen = {copy["place"]: copy.get("requests") for copy in clean(ledger, folder, plan, key).residual}
    assert seen == {
        "served": both,
        "train.jsonl": both,
        "of-one.log": [first],
        "of-both.log": both,
        "note.md": [second],
        "sealed.age": None,
    }
    how: dict[str, Any] = {"retired": [plan.models[0].weights], "remove": True, "closing": True, "rewrite_data": True}
    how["reasons"] = {"note.md": "a court asked for it", "sealed.age": "its key is lost"}
    read = [affected_models([models], [key.of(record.fingerprint)])[0].first_step or 0 for record in load_records(ROWS[:2])]
    steps = [int(path.name.partition("-")[2]) for path in (models / "served").glob("checkpoint-*")]
    before, (mine, theirs) = min(read), [sum(step >= one for step in steps) for one in read]
    assert mine != theirs, "one of them was read in a later step"
    with mock.patch("unlearn.purge.find.remove", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        clean(ledger, folder, plan, key, **how)
    (models / "of-one.log").unlink()  # it was removed, and the process died before it could say so
    done = clean(ledger, folder, plan, key, **how)
    whole = {"adapter": 1, "training file": 1}
    assert dict(done.removed) == {"log": 2, "checkpoint": sum(step >= before for step in steps), **whole}
    assert done.removed_for == {
        first: {"log": 2, "checkpoint": mine, **whole},
        second: {"log": 1, "checkpoint": theirs, **whole},
    }
    blind = carried_over(done.residual, clean(ledger, folder, plan, key, **how), [str(models)])
    assert {blind.shown.get(copy["place"], copy["place"]): copy.get("requests") for copy in blind.residual} == {
        "note.md": [second],
        "sealed.age": None,
    }


def test_the_record_tells_persons_apart(ledger: Ledger) -> None:
    """What the ledger knows of each person's copies and models is in the deletion record; from a ledger without it, nothing is."""
    one, other = (ledger.add(NewRequest((subject * 32,), "gdpr", date(2026, 11, 2))) for subject in "56")
    steps: list[tuple[str, dict[str, Any]]] = [
        ("planned", {}),
        ("unlearning", {}),
        ("verifying", {}),
        ("deployed", {"models": MODELS}),
        ("purged", {"residual": [], "retired": [], "removed": {"log": 2}, "removed_for": {one: {"log": 2}}}),
        (
            "purged",
            {"residual": [], "retired": ["a" * 64], "removed": {"log": 1}, "removed_for": {one: {"log": 1}, other: {"log": 1}}},
        ),
        ("closed", {}),
    ]
    for name, record in ((one, "1" * 32), (other, "2" * 32)):
        ledger.advance(name, "identity_verified")
        ledger.advance(
            name, "matched", records=[{"record": record}], places=[{"records": 1}], near_duplicates_left=int(name == one)
        )
    for state, details in steps:
        ledger.advance_all([one, other], state, **details)  # type: ignore[arg-type]
    both = [ledger.request(name) for name in (one, other)]
    assert [facts_of(request).removed for request in both] == [{"log": 3}, {"log": 1}]
    assert [facts_of(request).near_left for request in both] == [1, 0]
    held = SimpleNamespace(models=[MODEL.model_copy(update={"weights": "a" * 64, "records": ("2" * 32,)})])
    assert _learned_from(both, held, "a" * 64) == (other,)  # type: ignore[arg-type]
    copy = {"place": "a", "kind": "log", "reason": "b"}
    assert [_residual(entry).requests for entry in (copy, {**copy, "requests": [one]})] == [None, (one,)]
    assert facts_of(ledger.request(walk(ledger))).removed is None


def test_what_was_explained_stays_explained(tmp_path: Path) -> None:
    """A copy that an earlier search found is still listed when its text can no longer be searched for, unless it is gone."""
    (tmp_path / "kept.log").write_text("x")
    reasons = {"kept.log": "a court asked for it", "gone.log": "the same", "keyed hash 1": "the same"}
    earlier = [{"place": place, "kind": "log", "reason": reason} for place, reason in reasons.items()]
    earlier.append({"place": "served", "kind": "model in service", "reason": IN_SERVICE})
    found = carried_over(earlier, Left((), {}), [str(tmp_path)])
    assert [copy["place"] for copy in found.residual] == ["kept.log", "keyed hash 1"]


def test_reasons_are_reasons() -> None:
    """An empty reason is none; anything but an object from place to text is refused."""
    assert read_reasons({"a": "b"}) == {"a": "b"}
    for bad in ([], {"a": " "}, {"a": 1}, None):
        with pytest.raises(InputError, match="reasons"):
            read_reasons(bad)
