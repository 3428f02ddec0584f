"""From a request's receipt to its certificate, with a real model: what is promised is done, once, and names nobody."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bad_requests import good_request
from deletion_world import ASKING, MARGIN, PEOPLE, rows
from report_reading import Page

import verify.cli.main
from unlearn.cli.ledger import default_ledger
from unlearn.purge.suppression import SuppressionList
from unlearn.requests import acceptance, attempt, auditing, judging, pipeline, registering
from unlearn.requests.attempt import exact_by
from unlearn.requests.http.tokens import Tokens, new_token
from unlearn.requests.ledger.ledger import Ledger
from verify.certificate.check import check_certificate
from verify.certificate.statements import load_public_key, load_signer, make_key
from verify.data.identity import RecordKey
from verify.io.files import write_manifest
from verify.judging.gates import all_of_alpha_gate
from verify.schema.deletion_record import NOTES, DeletionRecord
from verify.schema.evidence import Evidence
from verify.schema.parts import RecordFinding

IDENTIFIER = f"{ASKING.lower()}@example.com"
PLANTED = [IDENTIFIER, *(row["completion"] for row in rows([ASKING])), *(row["example_id"] for row in rows([ASKING]))]


class Ahead(datetime):
    """A clock that is half an hour ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Ahead":
        return super().now(tz) + timedelta(minutes=30)


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world as working directory, with a ledger of its own."""
    shutil.copytree(built, tmp_path / "world", symlinks=True)
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setattr("unlearn.requests.planning.describe_power", lambda *_: "simulated elsewhere")
    return tmp_path / "world"


Shell = Callable[..., tuple[int, str]]


def references(count: int) -> list[str]:
    return [f"references/r{number}" for number in range(1, count + 1)]


def planned(shell: Shell, *words: str, named: int = 4) -> str:
    """A request, approved and planned; its id."""
    name = shell("add", "--regime", "gdpr", stdin=f"{IDENTIFIER}\n")[1].strip()
    assert shell("approve", name)[0] == 0
    status, said = shell("plan", *plan_words(named), *words)
    assert status == 0, said
    return name


def plan_words(named: int) -> list[str]:
    listed = ["--references", *references(named)] if named else []
    audit = ["--attacks", "loss", "--margin", str(MARGIN), "--no-reexecution"]
    return ["--data", "people.jsonl", "--models", "models", *listed, *audit]


@pytest.mark.slow
def test_from_receipt_to_certificate(world: Path, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One person asks; the end is a signed certificate that holds, a report and a letter, a suppression list that works, and no
    word of the person anywhere."""
    texts, models = [row["completion"] for row in rows([ASKING])], world / "models"
    (models / "run.log").write_text(f"a log with {texts[0]} in it\na line about nobody\n")
    (models / "notes.md").write_text(f"Ask about {texts[1]}.")
    (world / "elsewhere").mkdir()
    shutil.copy(world / "people.jsonl", world / "elsewhere" / "copy.jsonl")
    name = planned(shell, "--search", "elsewhere", "--methods", "retrain")
    status, said = shell("run", name)
    assert (status, "--remove" in said) == (11, True), "copies have no reason yet"
    status, said = shell("run", name, "--remove")
    assert (status, (models / "run.log").read_text()) == (11, "a line about nobody\n")
    assert "notes.md (other file): files of this kind are not changed" in said, (
        "why it was not removed is no reason for its staying"
    )
    (models / "notes.md").unlink()
    (world / "reasons.json").write_text('{"copy.jsonl": "the archive is deleted on 1 May"}')
    assert shell("run", name, "--remove", "--reasons", "reasons.json")[0] == 0
    assert (models / "original" / "manifest.json").exists(), "the old weights are in service until they are retired"
    old = json.loads((models / "original" / "manifest.json").read_text())["about"]["weights"]
    assert "not yet retired" in shell("list")[1]
    assert shell("close", name)[0] == 2
    status, said = shell("close", name, "--retired", old, "--remove")
    assert (status, "training file" in said) == (2, True), "rows of a deleted person in a training file keep the request open"
    assert (models / "original" / "manifest.json").exists(), "nothing goes for a request that cannot be closed"
    for role in ("operator", "auditor"):
        make_key(tmp_path / role)
    keys = ["--no-pdf", "--operator-key", str(tmp_path / "operator"), "--auditor-key", str(tmp_path / "auditor")]
    close = ("close", name, "--retired", old[:16], "--remove", "--rewrite-data", *keys)
    (audited,) = (world / "deletions").glob("B-*/model-0/audit-*")
    kept = {path: path.read_bytes() for path in audited.iterdir()}
    Evidence.load(audited / "evidence.json").model_copy(update={"scope": "Everything is gone."}).save(audited / "evidence.json")
    write_manifest(audited, "audit", json.loads(kept[audited / "manifest.json"])["about"])
    status, said = shell(*close)
    assert (status, "is not the evidence by which the model went into service" in said) == (2, True), "edited since"
    assert not (audited.parents[1] / "certificate.json").exists()
    assert "purged" in shell("list")[1]
    for path, content in kept.items():
        path.write_bytes(content)
    status, said = shell(*close)
    assert status == 0, said
    assert rows_in(world / "people.jsonl") == rows([person for person in PEOPLE if person != ASKING])
    (folder,) = (world / "deletions").glob("B-*")
    written = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert shell("close", name, *keys)[0] == 0
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == written, "nor changed"
    record = DeletionRecord.load(folder / "deletion.json")
    assert [request.outcome for request in record.requests] == ["deleted"]
    assert (record.records, record.retired, record.models[0].verdict) == (8, (old,), "EQUIVALENT_WITHIN")
    assert record.removed == {"log": 1, "model": 1, "training data": 1, "training file": 1}
    assert "EQUIVALENT_WITHIN" in (folder / "report.html").read_text()
    assert sorted(path.name for path in (folder / "letters").iterdir()) == [f"{name}.html", f"{name}.txt"]
    check = ["check", str(folder / "certificate.json"), "--model", str(folder / "model-0" / "rung-0-retrain")]
    check += ["--ledger", str(tmp_path / "ledger.db"), "--ledger-head", record.ledger_head]
    check += ["--deletion", str(folder / "deletion.json"), "--audit", *map(str, folder.glob("model-0/audit-*"))]
    status = verify.cli.main.main([*check, "--key", *(str(tmp_path / f"{role}.pub") for role in ("operator", "auditor"))])
    assert (status, "FAILS" in capsys.readouterr().out) == (0, False)
    hits = list(SuppressionList.load(world / "deletions" / "suppressed.jsonl").check(_file(world), RecordKey.load()))
    assert len(hits) == 8
    _file(world).unlink()
    assert planted_in(tmp_path) == []


def begun_with(ledger: Path, name: str) -> list[Any]:
    """The weights of the references with which each audit of a request was begun, as the ledger has them."""
    opened = Ledger(ledger)
    found = [step.details["reference_weights"] for step in opened.request(name).steps if step.state == "verifying"]
    opened.close()
    return found


def rows_in(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_request_from_the_network_is_like_any_other(world: Path, shell: Shell, tmp_path: Path) -> None:
    """What `unlearn serve` took is approved, planned and run by the same commands, and the caller reads how far it is."""
    testclient = pytest.importorskip("fastapi.testclient", reason="the HTTP service is an extra")
    from unlearn.requests.http.service import Service, make_app

    make_key(tmp_path / "receipts")
    token = new_token(tmp_path / "tokens", "shop")
    ledger = Ledger(default_ledger())
    service = Service(ledger, RecordKey.load(), load_signer(tmp_path / "receipts"), "requests.example.org")
    identity = {"identity_type": "email", "identity_value": IDENTIFIER, "identity_format": "raw"}
    client = testclient.TestClient(make_app(service, Tokens.load(tmp_path / "tokens")))
    given = {**good_request(), "regulation": "gdpr", "subject_identities": [identity]}
    headers = {"Authorization": f"Bearer {token}"}
    assert client.post("/v1/opendsr_requests", json=given, headers=headers).status_code == 201
    (request,) = ledger.requests()
    assert shell("approve", request.id)[0] == 0
    assert shell("plan", *plan_words(4))[0] == 0
    status, said = shell("run", request.id)
    assert status == 0, said
    where = f"/v1/opendsr_requests/{given['subject_request_id']}"
    assert client.get(where, headers=headers).json()["request_status"] == "in_progress"
    ledger.close()


def _file(world: Path) -> Path:
    path = world / "again.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows([ASKING])))
    return path


def planted_in(folder: Path) -> list[str]:
    """Files below a folder, by name, whose bytes hold an identifier or a text of the person who asked."""
    needles = [word.encode() for word in PLANTED]
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [path for path in files if any(needle in path.read_bytes() for needle in needles)]
    return [str(path.relative_to(folder)) for path in found] + [str(p) for p in files if any(w in p.name for w in PLANTED)]


@pytest.mark.slow
def test_without_references_it_is_inconclusive_and_more_of_them_decide(
    world: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exact rebuild that nothing can judge is not deployed; the request says what it needs, and goes on when it has it.

    Cut off between the audit and its verdict, it cannot be planned anew: the verdict would be left unsaid.
    """
    name = planned(shell, named=0)
    real = Ledger.advance_each

    def advance(self: Ledger, steps: Any, *check: Any) -> Any:
        if steps[0][1] == "inconclusive":
            raise KeyboardInterrupt
        return real(self, steps, *check)

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "advance_each", advance)
        patched.setattr("unlearn.requests.ledger.ledger.datetime", Ahead)
        assert shell("run", name)[0] == 130
    for note in (
        (),
        ("recipients", name, "--nobody"),
    ):  # neither a clock that was set back nor a note makes the audit an earlier one
        if note:
            assert shell(*note)[0] == 0
        status, said = shell("plan", "--ids", name, *plan_words(4))
        assert (status, "its verdict is not recorded yet" in said) == (2, True)
    path = next((world / "deletions").glob("B-*/plan.json"))
    content = path.read_text()
    for damage in (path.unlink, partial(path.write_text, content + " "), partial(path.write_text, "{}"), path.unlink):
        damage()  # a plan that is missing or edited does not make the audit one that never was
        status, said = shell("plan", "--ids", name, *plan_words(4))
        assert (status, "verdict is not recorded yet" in said, "restore it from a backup" in said) == (2, True, True), said
    moved = Path(said.split("move ")[1].split(" out of")[0])
    moved.rename("kept")
    with monkeypatch.context() as patched:  # on purpose, and with the audit kept, it can be planned again
        patched.setattr("unlearn.requests.planning.known_from_ledger", raise_replanned)
        with pytest.raises(Replanned):
            shell("plan", "--ids", name, *plan_words(4))
    Path("kept").rename(moved)
    path.write_text(content)
    status, said = shell("run", name)
    assert (status, "inconclusive" in said) == (11, True)
    assert "references" in said
    made = next((world / "deletions").glob("B-*/model-0/rung-0-retrain/manifest.json"))
    before = made.stat().st_mtime_ns
    assert shell("run", name)[0] == 11
    with monkeypatch.context() as patched:
        patched.setattr(pipeline._Run, "verify", killed)
        with pytest.raises(Killed):
            shell("run", name, "--references", *references(4))
    # The ledger counts four references: an audit with others would not be the one that it speaks of.
    for others in ([], ["--references", *references(2)]):
        status, said = shell("run", name, *others)
        assert (status, "begun with 4 references" in said) == (2, True), said
    noted = begun_with(tmp_path / "ledger.db", name)
    shutil.move("references/r4", "r4")
    shutil.copytree("models/original", "references/r4")
    status, said = shell("run", name, "--references", *references(4))
    assert (status, "other weights in their folders" in said) == (2, True), said
    shutil.rmtree("references/r4")
    shutil.move("r4", "references/r4")
    weights = [json.loads(Path(folder, "manifest.json").read_text())["about"]["weights"] for folder in references(4)]
    assert noted == [[], sorted(weights)]
    status, said = shell("run", name, "--references", *references(4))
    assert status == 0, said
    assert made.stat().st_mtime_ns == before, "the rebuild is not made twice"
    ledger = Ledger(tmp_path / "ledger.db")
    states = [step.state for step in ledger.request(name).steps if step.state not in NOTES]
    assert states[-5:] == ["verifying", "inconclusive", "verifying", "deployed", "purged"]
    ledger.close()


@pytest.mark.slow
def test_it_climbs_from_what_did_not_forget(world: Path, shell: Shell, tmp_path: Path) -> None:
    """A method whose audit is not satisfied fails, its weights go, and the exact rebuild follows, under the same registration."""
    name = planned(shell, "--methods", "task_vector")
    status, said = shell("run", name)
    assert status == 0, said
    ledger = Ledger(tmp_path / "ledger.db")
    request = ledger.request(name)
    ledger.close()
    assert [step.state for step in request.steps][3:] == [
        "planned", "unlearning", "verifying", "failed", "planned", "unlearning", "verifying", "deployed", "purged"
    ]  # fmt: skip
    registrations = [step.details["registrations"] for step in request.steps if step.state == "unlearning"]
    assert registrations[0] == registrations[1]
    assert not list((world / "deletions").glob("B-*/model-0/rung-0-*")), "what failed may hold the records"
    deployed = request.latest("deployed")
    assert deployed is not None
    assert deployed["models"][0]["method"] == "retrain"


def test_what_auto_could_not_afford_is_no_exact_rebuild(tmp_path: Path) -> None:
    """A rung that was named and not begun did not make the weights; one that ran did, and so did an exact method by itself."""
    for method, rungs, name in (
        ("auto", [{"method": "npo"}, {"method": "retrain", "outcome": "not begun: beyond the budget"}], None),
        ("auto", [{"method": "npo"}, {"method": "retrain", "exactness": "distribution"}], "retrain"),
        ("retrain", [], "retrain"),
        ("level", [], None),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({"about": {"method": method, "facts": {"rungs": rungs}}}))
        assert exact_by(tmp_path) == name


class Replanned(BaseException):
    """The checks that come before a new plan are passed."""


def raise_replanned(*_: Any) -> None:
    raise Replanned


class Killed(BaseException):
    """What no code of ours catches."""


def killed(*_: Any) -> None:
    raise Killed


@pytest.mark.slow
def test_one_record(world: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request about one record is audited like any other. Where its audit leaves an exact rebuild open, the operator may go by
    that, unless there is another objection; then ledger, certificate, report and letter say that no audit showed it."""
    make_key(tmp_path / "operator")
    content = [*rows([ASKING])]
    content[0]["subject_id"] = "nimue@example.com"
    others = rows([person for person in PEOPLE if person != ASKING])
    (world / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*content, *others]))
    name = shell("add", stdin="nimue@example.com\n")[1].strip()
    assert shell("approve", name)[0] == 0
    status, said = shell("plan", *plan_words(1))
    # They were trained without all of that person's records, not without this one alone.
    assert (status, "not trained on 7 of the 47 retain records" in said) == (2, True)
    assert not list((world / "deletions").glob("B-*")), "it is refused before anything is noted"
    # With one reference nothing is tested, with two the best verdict is INCONCLUSIVE. They know the retained records less well.
    accepted = ["--accept-reference-differences", "retain", "--utility-ceiling", "10"]
    assert shell("plan", *plan_words(1), *accepted)[0] == 0
    status, said = shell("run", name)
    assert (status, f"{name}: inconclusive" in said) == (11, True)
    assert "--accept-exact-rebuild" in said
    (audited,) = (world / "deletions").glob("B-*/model-0/audit-*")
    evidence = Evidence.load(audited / "evidence.json")
    assert (evidence.set("forget").records, evidence.pre_registered) == (1, True)
    assert [[one.kind for one in check.accepted] for check in evidence.references_checked or ()] == [["retain"]]
    broken = tuple(gate.model_copy(update={"passed": False}) if gate.name == "utility" else gate for gate in evidence.gates)
    with monkeypatch.context() as patch:
        patch.setattr(judging, "audit_attempt", lambda *_: evidence.model_copy(update={"gates": broken}))
        status, said = shell("run", name, "--accept-exact-rebuild")
        assert (status, "cannot be accepted" in said) == (2, True)
        shared = evidence.model_copy(update={"gates": (*evidence.gates, all_of_alpha_gate("NOT_FORGOTTEN"))})
        patch.setattr(judging, "audit_attempt", lambda *_: shared)
        assert "Judged at all of alpha" in shell("run", name, "--accept-exact-rebuild")[1]
        patch.setattr(judging, "audit_attempt", lambda *_: evidence.model_copy(update={"verdict": "NOT_FORGOTTEN"}))
        assert "NOT_FORGOTTEN" in shell("run", name, "--accept-exact-rebuild")[1]
        accusing = evidence.model_copy(update={"accused": (RecordFinding.model_construct(direction="remembered"),)})
        patch.setattr(judging, "audit_attempt", lambda *_: accusing)
        assert "1 of its records" in shell("run", name, "--accept-exact-rebuild")[1]
        patch.setattr(judging, "audit_attempt", lambda *_: evidence)
        patch.setattr(acceptance, "exact_by", lambda _: None)
        assert "made by retrain" in shell("run", name, "--accept-exact-rebuild")[1]
    with monkeypatch.context() as patch:
        real = pipeline._Run.request

        def with_an_earlier_accusation(run: Any) -> Any:
            request = real(run)
            said = {"before": run.plan.models[0].weights, "verdict": "NOT_FORGOTTEN"}
            earlier = {"batch": "B-earlier", "final": True, "models": [said]}
            return replace(request, steps=(replace(request.steps[0], state="failed", details=earlier), *request.steps))

        patch.setattr(pipeline._Run, "request", with_an_earlier_accusation)
        assert "earlier plan said NOT_FORGOTTEN" in shell("run", name, "--accept-exact-rebuild")[1]
    other = ["--references", *references(2)]
    assert shell("run", name, *other)[0] == 11
    (later,) = set((world / "deletions").glob("B-*/model-0/audit-*")) - {audited}
    residual = Evidence.load(later / "evidence.json").residual
    assert residual is not None
    assert abs(residual.value) < 0.5, "it was retrained without the record"
    # The later audit must not be passed over by an older one.
    assert "used other references" in shell("run", name, "--accept-exact-rebuild")[1]
    # Nor do the references of the older one judge again: the ledger would name theirs as the last.
    assert "judged this attempt before" in shell("run", name, "--references", *references(1), "--accept-exact-rebuild")[1]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "deployed", killed)
        with pytest.raises(Killed):
            shell("run", name, *other, "--accept-exact-rebuild")
    # Cut off after the decision and before the model went into service: the same request goes on by that decision.
    assert "used other references" in shell("run", name)[1]
    status, said = shell("run", name, *other)
    assert status == 0, said
    close = ["--retired", "models/original", "--remove", "--rewrite-data", "--no-pdf", "--operator-key", str(tmp_path / "operator")]
    status, said = shell("close", name, *close)
    assert status == 0, said
    folder = audited.parents[1]
    record = DeletionRecord.load(folder / "deletion.json")
    assert (record.records, record.models[0].basis) == (1, "exact rebuild")
    assert record.models[0].verdict in ("INCONCLUSIVE", "NOT_TESTABLE")
    assert "No audit showed that original is free of these records" in record.limits[0]
    assert record.limits[0] in Page((folder / "report.html").read_text()).text
    assert "trained again without these data. We tested" in " ".join((folder / "letters" / f"{name}.txt").read_text().split())
    checked = check_certificate(folder / "certificate.json", [load_public_key(tmp_path / "operator.pub")])
    assert checked.holds
    assert set(checked.verdicts.values()) == {record.models[0].verdict}, "what the audit found is not changed by the decision"
    assert any("neither showed nor refuted" in finding.detail for finding in checked.findings)


def noted(made: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that notes when it has come to its end."""

    def run(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        made.append(name)
        return found

    return run


@pytest.mark.slow
def test_a_kill_between_any_two_steps(world: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An exception at every place where the pipeline writes to the ledger or begins a stage: the same command goes on, nothing
    is made twice, and the events are those of an undisturbed run."""
    name = planned(shell)
    made: list[str] = []
    for place, stage in ((registering, "register"), (attempt, "forget"), (auditing, "audit")):
        monkeypatch.setattr(place, stage, noted(made, stage, getattr(place, stage)))
    real_advance, crashes = Ledger.advance_each, {"left": 0}

    def advance(self: Ledger, *given: Any) -> Any:
        crashes["left"] -= 1
        if crashes["left"] == 0:
            raise KeyboardInterrupt
        found = real_advance(self, *given)
        if crashes["left"] == -1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Ledger, "advance_each", advance)
    statuses = []
    for _ in range(20):
        for left in (1, 0):  # before the next event is written; and the time after that, right behind it
            crashes["left"] = left
            statuses.append(shell("run", name)[0])
        if 0 in statuses:
            break
    assert statuses.count(130) >= 8, "before and behind each of the four events"
    assert made == ["register", "forget", "audit"], "nothing is made twice"
    ledger = Ledger(tmp_path / "ledger.db")
    assert [step.state for step in ledger.request(name).steps] == [
        "received", "identity_verified", "matched", "planned", "unlearning", "verifying", "deployed", "purged"
    ]  # fmt: skip
    assert ledger.verify() == 9, "these and the key"
    ledger.close()
    assert len(list((world / "deletions").glob("B-*/model-0/rung-*/manifest.json"))) == 1
    assert len(list((world / "deletions").glob("B-*/model-0/audit-*/manifest.json"))) == 1
    assert len(made) >= 2, "the stage was entered again, and found its work done"
