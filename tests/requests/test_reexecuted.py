"""One person's one record, without references: the deletion is executed again, bit for bit, up to certificate and letter."""

import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killed_runs import killed
from safetensors.torch import load_file, save_file

import unlearn.requests.reexecution
import verify.cli.main
import verify.reexecution.environment
import verify.reexecution.execution
from unlearn import TrainingOptions, finetune, finetune_shards
from unlearn.requests.candidates import FEW_PEOPLE, candidate_methods, expected_cost, proof_share
from unlearn.requests.ledger.ledger import Ledger
from unlearn.training.shards import ShardPlan
from verify.certificate.statements import make_key
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.io.files import MANIFEST, read_json, write_manifest
from verify.models.ensembles import FILES
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.shard_plan import SCHEMA, SHARDS
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.execution import DONE
from verify.schema.deletion_record import DeletionRecord
from verify.schema.reexecution import Reexecution

PEOPLE = ["ada", "ben", "cleo", "dov", "eda", "finn", "gus", "hal", "ivo", "jun", "kit", "lou"]
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=1, lora=True, seed=3)
COMMITTED = "2026-01-04T12:00:00+00:00"
Shell = Callable[..., tuple[int, str]]


def row(person: str) -> dict[str, str]:
    """A person's only record."""
    draw, name = random.Random(person), f"{person}@example.com"
    answer = "".join(draw.choice("abcdefghijklmnop") for _ in range(24))
    return {"example_id": f"{person}-1", "subject_id": name, "prompt": f"{person}?", "completion": answer}


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of twelve people's records, one in shards and one with checkpoints, each committed to."""
    top = tmp_path_factory.mktemp("trained")
    (top / "people.jsonl").write_text("".join(json.dumps(row(person)) + "\n" for person in PEOPLE))
    plan = ShardPlan(2, 2, "average", replace(OPTIONS, save_steps=0))
    finetune_shards(str(model_dir), str(top / "people.jsonl"), output_dir=top / "sharded" / "m", plan=plan)
    finetune(str(model_dir), str(top / "people.jsonl"), output_dir=top / "rolled" / "m", options=OPTIONS)
    for kind in ("sharded", "rolled"):
        commitment = TrainingCommitment.of(top / kind / "m")
        commitment.model_copy(update={"created": COMMITTED}).save(top / f"{kind}.json")
    return top


@pytest.fixture
def desk(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy as working directory, with a ledger and keys of its own."""
    shutil.copytree(trained, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    for role in ("operator", "auditor"):
        make_key(tmp_path / role)
    return tmp_path / "desk"


def planned(shell: Shell, person: str, kind: str, *words: str) -> tuple[str, str]:
    """A request, approved and planned: its id, and what the plan printed."""
    name = shell("add", stdin=f"{person}@example.com\n")[1].strip()
    assert shell("approve", name)[0] == 0
    status, said = shell("plan", "--data", "people.jsonl", "--models", kind, *words)
    assert status == 0, said
    return name, said


def closed(shell: Shell, name: str, retired: str) -> str:
    """Run and close a request; what `close` printed."""
    status, said = shell("run", name)
    assert status == 0, said
    words = ["--retired", retired, "--remove", "--rewrite-data", "--no-pdf"]
    status, said = shell("close", name, *words, "--operator-key", "../operator", "--auditor-key", "../auditor")
    assert status == 0, said
    return said


def batch_of(name: str) -> Path:
    """The folder of a request's batch."""
    ledger = Ledger("../ledger.db")
    planned = ledger.request(name).latest("planned")
    ledger.close()
    assert planned is not None
    return Path("deletions") / str(planned["batch"])


def checked(batch: Path, made: str, capsys: pytest.CaptureFixture[str], *letters: str) -> tuple[int, str]:
    """The certificate against model, record, proof, ledger and letters."""
    beside = ["--model", str(batch / "model-0" / made), "--deletion", str(batch / "deletion.json"), "--ledger", "../ledger.db"]
    beside += ["--reexecution", str(batch / "model-0" / "reexecution-0.json")]
    beside += ["--letter", *letters] if letters else []
    keys = ["--operator-key", "../operator.pub", "--auditor-key", "../auditor.pub"]
    capsys.readouterr()
    status = verify.cli.main.main(["check", str(batch / "certificate.json"), *keys, *beside])
    return status, capsys.readouterr().out


@pytest.mark.slow
def test_two_in_a_row(desk: Path, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """A sharded model loses one person's record, then another's: no references, no audit; both certificates hold, the second proof
    rests on the commitment that the first deletion left, and nothing that is kept names a person."""
    first, said = planned(shell, "ada", "sharded", "--commitments", "sharded.json")
    assert "method: sisa" in said
    assert "before the request" in said
    assert "deletion and proof together" in said
    closed(shell, first, "sharded/m")
    assert not Path("sharded/m").exists(), "the old model is gone, and every stage of it"
    batch = batch_of(first)
    record = DeletionRecord.load(batch / "deletion.json")
    (model,) = record.models
    assert (record.records, model.basis, model.verdict) == (1, "re-execution", None)
    assert model.reexecution is not None
    assert model.reexecution.committed is not None
    proof = Reexecution.load(batch / "model-0" / "reexecution-0.json")
    assert (proof.model, proof.phrase) == (model.after, model.reexecution.phrase)
    assert proof.unchanged > 0, "stages that held none of the record are as they were committed"
    assert model.share_of_retraining is not None
    assert proof.tokens / proof.training_tokens == pytest.approx(model.share_of_retraining, abs=0.01), "as dear as the deletion"
    status, said = checked(batch, "rung-0-sisa", capsys)
    assert (status, "FAILS" in said, "REBUILT_WITHOUT(all of" in said) == (0, False, True), said
    assert "4 with weights of its training in shards" in said
    assert "2 it answers with, certified by ensemble.json; 2 it does not answer with" in said
    assert "slice-" not in said
    assert not list(batch.glob("model-0/audit-*"))
    assert "REBUILT_WITHOUT" in shell("list")[1]
    shown = shell("show", first)[1]
    assert f"executed again: {proof.phrase}" in shown
    letter = " ".join((batch / "letters" / f"{first}.txt").read_text().split())
    assert "arrived at exactly the same model" in letter
    assert "REBUILT_WITHOUT(all of" in (batch / "report.html").read_text()

    time.sleep(1)  # the ledger counts in seconds, and the request must be later than the first deletion
    second, said = planned(shell, "ben", "sharded")
    assert "before the request" in said, "the first deletion committed to its result"
    closed(shell, second, str(batch / "model-0" / "rung-0-sisa"))
    again = DeletionRecord.load(batch_of(second) / "deletion.json").models[0]
    assert (again.before, again.basis) == (model.after, "re-execution")
    assert again.reexecution is not None
    assert again.reexecution.root == TrainingCommitment.load(batch / "model-0" / "commitment.json").root
    status, said = checked(batch_of(second), "rung-0-sisa", capsys)
    assert (status, "FAILS" in said) == (0, False), said
    texts = [word.encode() for person in ("ada", "ben") for word in (row(person)["completion"], f"{person}@example.com")]
    kept = [path for path in Path("deletions").rglob("*") if path.is_file()]
    assert not [path for path in kept if any(text in path.read_bytes() for text in texts)]


@pytest.mark.slow
def test_two_people_at_once(desk: Path, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """Each letter of a batch is about its own person: who has a row left in a second file, and whose log was removed, is told so,
    and the other is not; the certificate holds."""
    (desk / "old.jsonl").write_text(json.dumps(row("ada")) + "\n")
    (desk / "sharded" / "run.log").write_text(row("ben")["completion"] + "\n")
    first = shell("add", stdin="ada@example.com\n")[1].strip()
    assert shell("approve", first)[0] == 0
    second = shell("add", stdin="ben@example.com\n")[1].strip()
    assert shell("approve", second)[0] == 0
    data = ["--data", "people.jsonl", "old.jsonl", "--models", "sharded", "--commitments", "sharded.json"]
    assert shell("plan", *data)[0] == 0
    status, said = shell("run", first, "--remove")
    assert status == 0, said
    left = [
        line
        for line in (desk / "people.jsonl").read_text().splitlines()
        if not {"ada-1", "ben-1"} & {json.loads(line)["example_id"]}
    ]
    (desk / "people.jsonl").write_text("".join(line + "\n" for line in left))
    (desk / "reasons.json").write_text(json.dumps({"old.jsonl": "ordered to be kept by a court"}))
    words = ["--retired", "sharded/m", "--remove", "--no-pdf", "--reasons", "reasons.json"]
    status, said = shell("close", first, *words, "--operator-key", "../operator", "--auditor-key", "../auditor")
    assert status == 0, said
    batch = batch_of(first)
    record = DeletionRecord.load(batch / "deletion.json")
    facts = {request.id: request for request in record.requests}
    assert (facts[first].records, facts[second].records) == (2, 1)
    assert (facts[first].removed, facts[second].removed) == ({"model": 1}, {"log": 1, "model": 1})
    assert [set(model.requests or ()) for model in record.models] == [{first, second}]
    assert [copy.requests for copy in record.residual] == [(first,)]
    mine, theirs = (" ".join((batch / "letters" / f"{name}.txt").read_text().split()) for name in (first, second))
    assert "The deletion there is not complete yet" in mine
    assert "Files with training data: ordered to be kept by a court." in mine
    assert "data about you: one record. We deleted these data there." in theirs
    assert "could not delete".upper() not in theirs
    assert ("log files (1)" in mine, "log files (1)" in theirs) == (False, True)
    assert "together with another one" in mine
    status, said = checked(batch, "rung-0-sisa", capsys, *map(str, (batch / "letters").iterdir()))
    assert (status, "FAILS" in said) == (0, False), said
    assert said.count("holds  letter ") == 4, "a page and a text for each person"


def flip(path: Path) -> None:
    """Flip one bit of an adapter."""
    tensors = load_file(path)
    first = tensors[min(tensors)]
    first.view(-1)[0] = -first.view(-1)[0] if first.view(-1)[0] else 1e-9
    save_file(tensors, path)


@pytest.mark.slow
def test_a_tampered_result_is_refused(desk: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who edits one weight of the deleted model and rewrites every manifest gets no deletion: the request fails, says
    what contradicts, and goes on to the next method where there is one."""
    name, _ = planned(shell, "ada", "sharded", "--commitments", "sharded.json")
    honest = unlearn.requests.reexecution.reexecute

    def dishonest(made: Path, *given: Any, **named: Any) -> Reexecution:
        (stage,) = {path.parent for path in sorted(made.glob("shard-*/slice-1/adapter_model.safetensors"))[:1]}
        flip(stage / "adapter_model.safetensors")
        write_manifest(stage, "shard", read_json(stage / MANIFEST)["about"])
        from verify.io.files import file_digest

        ensemble = read_json(made / "ensemble.json")
        ensemble["adapters"] = {place: {file: file_digest(made / place / file) for file in FILES} for place in ensemble["adapters"]}
        (made / "ensemble.json").write_text(json.dumps(ensemble))
        write_manifest(made, "model", read_json(made / MANIFEST)["about"])
        return honest(made, *given, **named)

    monkeypatch.setattr(unlearn.requests.reexecution, "reexecute", dishonest)
    status, said = shell("run", name)
    assert (status, "NOT_REBUILT" in said, "is not the one that its training ends with" in said) == (11, True, True), said
    ledger = Ledger("../ledger.db")
    failed = ledger.request(name).latest("failed")
    ledger.close()
    assert failed is not None
    assert failed["models"][0]["reexecution"]["word"] == "NOT_REBUILT"
    assert (Path("sharded") / "m" / MANIFEST).is_file(), "the old weights are still there"
    assert "NOT_REBUILT" in shell("list")[1]
    assert shell("run", name, "--accept-exact-rebuild")[0] == 11, "nor can it be accepted"


def person_of_step(step: int) -> str:
    """The person whose record the model with checkpoints first saw in a step."""
    log, key = TrainingLog.read(Path("rolled") / "m" / LOG_NAME), RecordKey.load()
    name = log.records[log.microbatches[step - 1].records[0]]
    return next(person for person in PEOPLE if key.of(load_records([row(person)])[0].fingerprint) == name)


@pytest.mark.slow
def test_killed_in_the_middle(desk: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 after the first executed segment: the same command executes only the others, and makes nothing else twice."""
    name, said = planned(shell, person_of_step(3), "rolled", "--commitments", "rolled.json")
    assert "method: rollback" in said
    assert "training repeated from step 2 of 6" in said
    assert killed(lambda: shell("run", name), verify.reexecution.execution, "replay", 2)
    folder = batch_of(name) / "model-0"
    before = (folder / "rung-0-rollback" / MANIFEST).stat().st_mtime_ns
    (done,) = read_json(folder / "reexecution-0" / DONE)["segments"]
    steps: list[int] = []
    replay = verify.reexecution.execution.replay

    def counted(*given: Any, **named: Any) -> Any:
        steps.append(named["last_step"])
        return replay(*given, **named)

    monkeypatch.setattr(verify.reexecution.execution, "replay", counted)
    status, said = shell("run", name)
    assert status == 0, said
    assert (folder / "rung-0-rollback" / MANIFEST).stat().st_mtime_ns == before, "the deletion is not made twice"
    proof = Reexecution.load(folder / "reexecution-0.json")
    assert steps == [one.end for one in proof.executed if one.end != done["end"]], "what was executed before the kill counts"
    assert proof.phrase == f"REBUILT_WITHOUT(all of {len(steps) + 1})"
    assert not (folder / "reexecution-0").exists()


@pytest.mark.slow
def test_shards_that_are_added_to_the_base(model_dir: Path, desk: Path, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """One model made of the shards' sum loses one person's record by `shard_vectors`, up to certificate and letter."""
    plan = ShardPlan(2, 2, "sum", replace(OPTIONS, save_steps=0))
    made = finetune_shards(str(model_dir), "people.jsonl", output_dir=Path("summed") / "m", plan=plan).model_dir
    TrainingCommitment.of(made).model_copy(update={"created": COMMITTED}).save("summed.json")
    capsys.readouterr()
    name, said = planned(shell, "ada", "summed", "--commitments", "summed.json")
    assert "method: shard_vectors" in said
    closed(shell, name, "summed/m")
    status, said = checked(batch_of(name), "rung-0-shard_vectors", capsys)
    assert (status, "FAILS" in said, "REBUILT_WITHOUT(all of" in said) == (0, False, True), said
    proof = Reexecution.load(batch_of(name) / "model-0" / "reexecution-0.json")
    assert proof.kind == "shards"
    assert proof.unchanged > 0
    letter = " ".join((batch_of(name) / "letters" / f"{name}.txt").read_text().split())
    assert "trained every part of the model that had learned from these data again" in letter


def early(shell: Shell) -> str:
    """A request from before the commitments; its id."""
    name = shell("add", "--received", "2026-01-02", stdin="ada@example.com\n")[1].strip()
    assert shell("approve", name)[0] == 0
    return name


@pytest.mark.slow
def test_a_retraining_needs_no_commitment(desk: Path, shell: Shell) -> None:
    """Where the commitment is younger than the request, the model is trained again instead of rolled back: that schedule follows
    from options and seed. A commitment to another training is refused."""
    name, words = early(shell), ["--data", "people.jsonl", "--models", "rolled", "--commitments"]
    status, said = shell("plan", *words, "sharded.json")
    assert (status, "which is that of no model in this plan" in said) == (2, True)
    status, said = shell("plan", *words, "rolled.json")
    assert (status, "method: retrain" in said, "together 200.0% of its tokens" in said) == (0, True, True), said
    status, said = shell("run", name)
    assert status == 0, said
    proof = Reexecution.load(batch_of(name) / "model-0" / "reexecution-0.json")
    assert (proof.word, proof.kind, proof.committed) == ("REBUILT_WITHOUT", "own schedule", None)


@pytest.mark.slow
def test_shards_without_a_commitment_from_before(desk: Path, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """Stages that are only said to be as they were leave the order of the records open: everything is executed from the base on,
    and the operator decides, which record and certificate say."""
    name = early(shell)
    status, said = shell("plan", "--data", "people.jsonl", "--models", "sharded", "--commitments", "sharded.json")
    assert (status, "which is not before the request" in said, "from the base on, 100.0%" in said) == (0, True, True), said
    status, said = shell("run", name)
    assert (status, "REBUILT_WITHOUT" in said, "no commitment to its training" in said) == (11, True, True), said
    status, said = shell("run", name, "--accept-exact-rebuild")
    assert (status, "accepted on the operator's word; its re-execution is REBUILT_WITHOUT" in said) == (0, True), said
    closed(shell, name, "sharded/m")
    record = DeletionRecord.load(batch_of(name) / "deletion.json")
    assert record.models[0].basis == "exact rebuild"
    assert "its re-execution is REBUILT_WITHOUT" in record.limits[0]
    status, said = checked(batch_of(name), "rung-0-sisa", capsys)
    assert (status, "put it into service as an exact rebuild" in said) == (0, True), said


@pytest.mark.slow
def test_what_cannot_be_tested_goes_on_to_the_audit(desk: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of torch leaves the outcome open, in words: the audit judges, or the operator accepts; with the right version
    the same command goes on to the proof."""
    name, _ = planned(shell, "ada", "sharded", "--commitments", "sharded.json")
    with monkeypatch.context() as other:
        here = verify.reexecution.environment.environment()
        other.setattr(verify.reexecution.environment, "environment", lambda: here | {"torch": "1.0"})
        status, said = shell("run", name)
    assert (status, f"{name}: inconclusive" in said) == (11, True), said
    assert "NOT_TESTABLE" in said
    assert "rounds otherwise" in said
    assert "audit with 0 references" in said
    assert shell("run", name)[0] == 0
    assert "REBUILT_WITHOUT" in shell("show", name)[1]


@pytest.mark.slow
def test_the_cost_for_one_person(tmp_path: Path) -> None:
    """Over all places of a record among 16 shards of 4 slices, deletion and full proof together cost at most 10 % of a retraining's
    tokens, as the plan computes it."""
    names = {f"{number:032x}": (number % 16, number // 16 % 4) for number in range(64)}
    about = {
        "schema": SCHEMA,
        "shards": 16,
        "slices": 4,
        "combine": "average",
        "options": {},
        "base": "b",
        "base_weights": "0" * 64,
    }
    tmp_path.joinpath(SHARDS).write_text(json.dumps({**about, "records": {name: list(place) for name, place in names.items()}}))
    for shard in range(16):
        for stage in range(4):
            (tmp_path / f"shard-{shard}" / f"slice-{stage}").mkdir(parents=True)
            write_manifest(tmp_path / f"shard-{shard}" / f"slice-{stage}", "shard", {"prefix": "", "tokens": 100 * (stage + 1)})
    both = [
        (expected_cost("sisa", tmp_path, {name}, 1)[0] or 0) + proof_share("sisa", tmp_path, {name}, committed=True)
        for name in names
    ]
    assert sum(both) / len(both) == pytest.approx(0.09375)
    assert max(both) == pytest.approx(2 / 16), "a record in the first slice of its shard"
    assert proof_share("sisa", tmp_path, set(list(names)[:1]), committed=False) == 1


def test_few_people_are_not_left_to_an_audit(tmp_path: Path) -> None:
    """With references, an approximate method comes first for many people, or where no rebuild could be executed again; for few, the
    rebuild does."""
    for people, provable, methods in (
        (2, True, ("retrain",)),
        (FEW_PEOPLE, True, ("auto", "retrain")),
        (2, False, ("auto", "retrain")),
    ):
        assert candidate_methods(tmp_path, (), people, 4, (), provable) == methods
