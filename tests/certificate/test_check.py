"""Certificates: everything signed verifies, and every change is named for what it is."""

import base64
import hashlib
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import FORGET, broken, certified, check, edit_payload, edited, proof_of, record_about, rewritten

from verify import InputError, IntegrityError
from verify.certificate.check import Trusted, check_certificate
from verify.certificate.statements import (
    auditor_statement,
    load_public_key,
    load_signer,
    make_key,
    operator_statement,
    sign,
    write_certificate,
)
from verify.cli.main import main
from verify.io.files import file_digest, write_manifest
from verify.models.folder_checks import changed_adapters, require_listed
from verify.provenance.shard_plan import SCHEMA
from verify.schema.evidence import Evidence
from verify.schema.judged_by import ControlsAccount
from verify.scores.table import ScoreTable


def test_a_whole_certificate_holds(house: dict[str, Path]) -> None:
    """Signatures, statements, weights, the model in service, the evidence and the ledger's head all verify."""
    checked = check(house, model=house["after"], audit=house["audit"], ledger_head="ab" * 32)
    assert checked.holds, broken(checked)
    assert checked.verdict == json.loads((house["audit"] / "evidence.json").read_text())["verdict"]


def test_a_flipped_bit_in_a_weight_is_named(house: dict[str, Path], tmp_path: Path) -> None:
    """One bit of one weight file: the check names the file."""
    model = shutil.copytree(house["after"], tmp_path / "model")
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert "model.safetensors" in broken(check(house, model=model))
    write_manifest(model, "model", json.loads((house["after"] / "manifest.json").read_text())["about"])
    assert "the manifest rewritten" in broken(check(house, model=model)), "a forged manifest is caught as well"
    assert "not the certified ones" in broken(check(house, model=house["before"]))


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [(1, '"records_accused":', '"records_Accused":'), (0, '"beta":0.1', '"beta":0.2'), (1, "NOT_", "EQ__")],
)
def test_an_edited_number_is_named(house: dict[str, Path], tmp_path: Path, number: int, old: str, new: str) -> None:
    """Any change of a signed statement breaks that statement's signature, and the other's stays good."""
    checked = check(house, edited(house, tmp_path, edit_payload(number, old, new)))
    assert f"signature of statement {number + 1}: it does not match the content" in broken(checked)
    assert f"signature of statement {2 - number}" not in broken(checked)


def test_a_foreign_key_is_named(house: dict[str, Path]) -> None:
    """A certificate signed by somebody else is not a forgery of the content, and is not called one."""
    checked = check(house, key="other")
    assert "a foreign key" in broken(checked)
    assert checked.verdict is None


def test_an_operator_cannot_sign_for_the_auditor(house: dict[str, Path], tmp_path: Path) -> None:
    """Who gives two keys expects two signers; one key alone, or a key given for both roles, may speak for both, and it is said."""
    own, other = (load_public_key(house[name].with_name(f"{name}.pub")) for name in ("key", "other"))
    alone = check(house)
    assert alone.holds
    assert any("nobody else vouches" in finding.detail for finding in alone.findings)
    both = check_certificate(house["certificate.json"], [own, other])
    assert "signers" in broken(both)
    assert check_certificate(house["certificate.json"], Trusted(operator=[own], auditor=[own, other])).holds
    roles = check_certificate(house["certificate.json"], Trusted(operator=[own], auditor=[other]))
    assert "gave for another role" in broken(roles)
    assert roles.verdict is None
    signers = [load_signer(house[name]) for name in ("key", "other")]
    path, statements = (
        tmp_path / "two.json",
        (operator_statement(house["after"], house["before"]), auditor_statement(house["audit"])),
    )
    write_certificate(path, [sign(statement, signer) for statement, signer in zip(statements, signers, strict=True)])
    for trusted in ([own, other], Trusted(operator=[own], auditor=[other])):
        two = check_certificate(path, trusted)
        assert two.holds, broken(two)
        assert not any(finding.what == "signers" for finding in two.findings)
        assert {finding.detail for finding in two.findings if finding.what.startswith("statement of")} == {
            f"present and signed by {key.keyid[:16]}" for key in (own, other)
        }


BESIDE = [
    ("adapter_config.json", True),
    ("ensemble.json", True),
    ("shard-0/adapter_config.json", True),
    ("shard-0/adapter_model.safetensors", True),
    ("chat_template.json", True),
    ("additional_chat_templates/a.jinja", True),
    ("additional_chat_templates/manifest.json", True),
    ("tokenizer.model", True),
    ("adapter_model.bin", True),
    ("Model.GGUF", True),
    ("modeling_x.py", True),
    ("deep/er/pytorch_model.bin", True),
    ("tokenizer.model.v3", True),
    ("source.spm", True),
    ("Modelfile", True),
    ("rank0.engine", True),
    ("notes.txt", False),
    ("deep/er/notes.txt", False),
]


@pytest.mark.parametrize(("name", "loaded"), BESIDE)
def test_every_file_beside_certified_weights_is_named(house: dict[str, Path], tmp_path: Path, name: str, loaded: bool) -> None:
    """At any depth; what some program would load makes the check fail, and the rest is named as not certified."""
    model = shutil.copytree(house["after"], tmp_path / "model")
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text('{"adapters": {"shard-0": {"adapter_config.json": "0"}}}')
    findings = [one for one in check(house, model=model).findings if name in one.detail or "its adapters shard-0" in one.detail]
    assert [one.holds for one in findings] == [not loaded], "named once"


def test_stages_are_counted_and_everything_else_is_named(house: dict[str, Path], tmp_path: Path) -> None:
    """Stages of the certified plan take one line; what is outside the plan, a link, or of a model without a plan is named."""
    places = ("shard-0/slice-0/", "shard-0/slice-1/", "shard-1/slice-0/", "shard-1/slice-1/")
    foreign = ("shard-2/slice-0/", "shard-0/slice-2/", "shard-00/slice-0/", "shard-x/slice-0/", "checkpoint-3/")
    model = shutil.copytree(house["after"], tmp_path / "model")
    for place in (*places, *foreign):
        (model / place).mkdir(parents=True)
        (model / place / "manifest.json").write_text("{}")
    (model / "shard-1/notes.txt").write_text("a note")
    plain = said_beside(house, model)
    assert not any("stages of" in line for line in plain), "a model without a certified plan has no stages"
    assert all(place in plain[0] for place in (*places, *foreign))
    plan = {
        "schema": SCHEMA,
        "shards": 2,
        "slices": 2,
        "combine": "sum",
        "options": {},
        "base": "b",
        "base_weights": "0",
        "records": {},
    }
    (model / "shards.json").write_text(json.dumps(plan))
    assert all(place in said_beside(house, model)[0] for place in places), (
        "a plan that the manifest does not list vouches for nothing"
    )
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["files"]["shards.json"] = {"sha256": file_digest(model / "shards.json"), "bytes": 0}
    (model / "manifest.json").write_text(json.dumps(manifest))
    named, counted = said_beside(house, model)
    assert "4 with weights of its training in shards" in counted
    assert "4 it does not answer with, and are not certified" in counted
    assert not any(place in named + counted for place in places)
    assert all(name in named for name in (*foreign, "shard-1/notes.txt"))
    shutil.rmtree(model / "shard-1/slice-1")
    (model / "shard-1/slice-1").symlink_to(house["before"])
    named, counted = said_beside(house, model)
    assert ("shard-1/slice-1/" in named, "3 with weights" in counted) == (True, True), "a link may lead to anybody's weights"


def said_beside(house: dict[str, Path], model: Path) -> list[str]:
    """What the check says about files beside a model and about its stages."""
    findings = check(house, model=model).findings
    return [f"{one.what}: {one.detail}" for one in findings if one.what.startswith(("files beside", "stages of"))]


def test_a_checkpoint_and_a_link_beside_certified_weights_are_named(house: dict[str, Path], tmp_path: Path) -> None:
    """A folder with a manifest of its own is one entry; a link to a folder of templates is followed by a loader, and fails."""
    model = shutil.copytree(house["after"], tmp_path / "model")
    shutil.copytree(house["before"], model / "checkpoint-3")
    checked = check(house, model=model)
    assert checked.holds, broken(checked)
    assert "checkpoint-3/" in checked.findings[-1].detail
    shutil.copytree(house["before"], model / "original")
    assert "original/model.safetensors" in broken(check(house, model=model)), "a manifest beside added weights excuses nothing"
    shutil.rmtree(model / "original")
    (tmp_path / "elsewhere").mkdir()
    (model / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    assert "additional_chat_templates/" in broken(check(house, model=model))
    with pytest.raises(IntegrityError, match="additional_chat_templates"):
        require_listed(model, json.loads((model / "manifest.json").read_text()))


def test_an_ensembles_adapters_are_checked(tmp_path: Path) -> None:
    """Each adapter has a manifest of its own, so that only ensemble.json binds it: a changed, missing or outside one is named."""
    adapter = tmp_path / "shard-0" / "slice-0"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()

    def changed(name: str, digest: str) -> list[str]:
        (tmp_path / "ensemble.json").write_text(json.dumps({"adapters": {name: {"adapter_model.safetensors": digest}}}))
        return changed_adapters(tmp_path)

    assert changed("shard-0/slice-0", digest) == []
    assert changed("shard-0/slice-0", "0" * 64) == ["shard-0/slice-0"]
    assert changed("shard-0/slice-1", digest) == ["shard-0/slice-1"]
    (tmp_path.parent / "adapter_model.safetensors").write_bytes(b"weights")
    assert changed("..", digest) == [".."]
    (tmp_path / "ensemble.json").write_text('{"adapters": {"shard-0/slice-0": {}}}')
    with pytest.raises(InputError, match="damaged"):
        changed_adapters(tmp_path)


def test_another_configuration_is_another_model(house: dict[str, Path], tmp_path: Path) -> None:
    """The auditor's statement alone binds the configuration: an edited one under a rewritten manifest is named, a path is not."""
    alone = rewritten(house, tmp_path / "auditor.json", lambda statements: statements.pop(0))
    assert "with the audited configuration" in str(check(house, alone, model=house["after"]).findings)
    for entry, value, seen in (("rms_norm_eps", 0.5, True), ("_name_or_path", "elsewhere", False)):
        copy = tmp_path / entry
        shutil.copytree(house["after"], copy)
        about = json.loads((copy / "manifest.json").read_text())["about"]
        content = json.loads((copy / "config.json").read_text()) | {entry: value}
        (copy / "config.json").write_text(json.dumps(content))
        (copy / "manifest.json").unlink()
        write_manifest(copy, "model", about)
        assert ("the same weights compute something else with it" in broken(check(house, alone, model=copy))) == seen
        assert "its manifest is not the certified one" in broken(check(house, model=copy))


def put(*place: str | int, to: Any) -> Callable[[list[Any]], None]:
    """A change of one value in a certificate's statements."""

    def change(statements: list[Any]) -> None:
        inner: Any = statements
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = to

    return change


EVIDENCE = (1, "predicate", "annotations", "evidence")
RECORD = (0, "predicate", "runDetails", "metadata", "request")
PROBED = {"weights": "3" * 64, "forget_digest": "3" * 64}
ACCOUNT = ControlsAccount.of(0.05, None, "c" * 64, 1).model_dump(mode="json")
SECOND_SUBJECT = [{"name": "a", "digest": {"sha256": "1" * 64}}, {"name": "b", "digest": {"sha256": "2" * 64}}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(1, "predicate", "result", to="FAILED"), "the statement says NOT_TESTABLE and FAILED"),
        (put(*EVIDENCE, "verdict", to="INCONCLUSIVE"), "its evidence INCONCLUSIVE"),
        (put(1, "subject", to=SECOND_SUBJECT), "not about exactly one model"),
        (put(1, "subject", to=[]), "not about exactly one model"),
        (put(1, "subject", 0, "digest", "sha512", to="2" * 128), "not about exactly one model"),
        (put(0, "subject", 0, "digest", "sha256", to="weights"), "not about exactly one model"),
        (put(*RECORD, "ledger_head", to="none"), "head of the request ledger"),
        (put(*RECORD, "registration", to="1" * 64), "the operator reports 1111111111111111, the audits followed none"),
        (put(*EVIDENCE, "models", 0, "weights", to="3" * 64), "before deletion, its evidence 3333333333333333"),
        (put(*EVIDENCE, "models", 1, "weights", to="3" * 64), "after deletion, its evidence 3333333333333333"),
        (put(1, "predicate", "annotations", "robustness", to=PROBED), "probes of other weights or records than its own"),
        (put(*EVIDENCE, "account", to=ACCOUNT), "the controls cccccccccccccccc, but its own are None"),
        (put(*RECORD, "models", to=[]), "it names no model with the weights"),
        (put(*RECORD, "models", 0, "before", to="3" * 64), "replaced 3333333333333333, the provenance starts from"),
        (put(*RECORD, "models", 0, "tested_by", to=["canaries"]), "other tests by which"),
        (put(*RECORD, "models", 0, "subject", to="Zebedee"), "deletion record of this version"),
        (put(*RECORD, "records", to=3), "3 records were removed, the audit of"),
        (put(*RECORD, "records", to=81), "81 records were removed, and lists 80 rows that held them"),
        (put(*RECORD, "retired", to=[]), "1 replaced models"),
        (put(*RECORD, "models", 0, "requests", to=["R-0123456789ab"]), "held data of a request that it is not about"),
        (put(*RECORD, "residual", 0, "requests", to=["R-0123456789ab"]), "held data of a request that it is not about"),
        (put(*RECORD, "requests", 0, "received", to="2026-11-04"), "it was received after it was recorded"),
        (put(*RECORD, "requests", 0, "events", 3, "at", to="2026-12-24T09:30:00+00:00"), "not in the order of their dates"),
        (put(*RECORD, "requests", 0, "events", 3, "at", to="soon"), "bears no date"),
        (put(*RECORD, "requests", 0, "answer_by", to="2027-01-03"), "answer_by is later than gdpr allows"),
        (put(*RECORD, "requests", 0, "answer_by", to="2026-11-01"), "its days are not in order"),
        (put(*RECORD, "requests", 0, "extended_to", to="2026-11-20"), "its days are not in order"),
        (put(*RECORD, "requests", 0, "extended_to", to="2027-04-03"), "extended_to is later than gdpr allows"),
        (put(*RECORD, "requests", 0, "regime", to="drop"), "extended_to is later than drop allows"),
        (put(*RECORD, "requests", 0, "received", to="9999-12-31"), "it was received after it was recorded"),
        (put(*RECORD, "requests", 0, "regime", to="hammurabi"), "its regime is none of gdpr, ccpa and drop"),
        (put(*RECORD, "requests", 0, "events", 6, "state", to="purged"), "its outcome is deleted, and no step of it says so"),
        (put(*RECORD, "requests", 1, "events", 1, "state", to="exempt"), "its outcome is denied, and no step of it says so"),
    ],
)
def test_statements_that_contradict_each_other(
    house: dict[str, Path], tmp_path: Path, change: Callable[[list[Any]], None], said: str
) -> None:
    """Signed again by the right key: the contradiction is named."""
    assert said in broken(check(house, rewritten(house, tmp_path / "c.json", change)))


def at(*times: str) -> Callable[[list[Any]], None]:
    """A change of the times of a request's first steps, which were taken three days apart."""

    def change(statements: list[Any]) -> None:
        for number, time in enumerate(times):
            put(*RECORD, "requests", 0, "events", number, "at", to=time)(statements)

    return change


@pytest.mark.parametrize(
    ("received", "times", "said"),
    [
        ("2026-11-03", ["2026-11-03T12:00:00+00:00", "2026-11-03T11:58:00+00:00"], None),
        ("2026-11-03", ["2026-11-03T12:00:00+00:00", "2026-11-03T10:59:00+00:00"], "not in the order of their dates"),
        ("2026-11-03", [f"2026-11-03T{hour}:00+00:00" for hour in ("12:00", "11:20", "10:40")], "not in the order of their dates"),
        ("2026-11-03", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"], "not in the order of their dates"),
        ("2026-11-04", ["2026-11-03T15:30:00+00:00"], None),
        ("2026-11-04", ["2026-11-03T11:30:00-04:00"], None),
        ("2026-11-05", ["2026-11-03T23:59:00-09:00"], "it was received after it was recorded"),
        ("9999-12-31", ["9999-12-31T23:59:59-23:59"], "not in the order of their dates"),
    ],
)
def test_clocks_and_time_zones_of_several_hosts(
    house: dict[str, Path], tmp_path: Path, received: str, times: list[str], said: str | None
) -> None:
    """Hosts that share a ledger disagree by minutes, and a request is closed in another time zone than that of its receipt: neither
    contradicts anything. Steps that go back by more than an hour, and a day that had begun nowhere, do."""

    def change(statements: list[Any]) -> None:
        put(*RECORD, "requests", 0, "received", to=received)(statements)
        at(*times)(statements)

    found = broken(check(house, rewritten(house, tmp_path / "c.json", change)))
    assert found == "" if said is None else said in found


@pytest.mark.parametrize("place", [(0, "predicate", "buildDefinition", "resolvedDependencies"), (*EVIDENCE, "sets")])
def test_statements_that_lack_what_is_compared(house: dict[str, Path], tmp_path: Path, place: tuple[str | int, ...]) -> None:
    """Provenance without the weights it starts from, and an audit without a forget set, are one clear error."""
    whole = certified(house, tmp_path / "whole", proof_of(house), audit=False, about={}) if place[0] == 0 else None
    with pytest.raises(InputError, match="lacks what this version expects"):
        check(house, rewritten(house, tmp_path / "c.json", put(*place, to=[]), whole))


@pytest.mark.parametrize(
    ("created", "said"),
    [
        ("2026-11-01T00:00:00+00:00", None),
        ("2199-01-01T00:00:00+00:00", "after the audit"),
        ("2026-11-16T00:00:00+00:00", "after the unlearning began"),
        ("yesterday", "bears no date"),
        ("2026-11-01T00:00:00", "bears no date"),
    ],
)
def test_a_registration_comes_first(house: dict[str, Path], tmp_path: Path, created: str, said: str | None) -> None:
    """It is older than the audit and than the unlearning, and the operator names the same one."""
    digest = "1" * 64

    def change(statements: list[Any]) -> None:
        put(*EVIDENCE, "registration", to={"digest": digest, "created": created})(statements)
        put(*RECORD, "registration", to=digest)(statements)

    found = broken(check(house, rewritten(house, tmp_path / "c.json", change)))
    assert found == "" if said is None else said in found


@pytest.mark.parametrize(("minutes", "said"), [(-1, None), (59, None), (60, None), (61, "after the unlearning began")])
def test_the_clocks_of_registration_and_unlearning_may_disagree(
    house: dict[str, Path], tmp_path: Path, minutes: int, said: str | None
) -> None:
    """By an hour, as those of a request's steps; then the finding says by how much they do, and calls nothing older by a clock that
    says otherwise."""
    record = record_about(house)
    began = next(event.at for event in record.requests[0].events if event.state == "unlearning")
    created = (datetime.fromisoformat(began) + timedelta(minutes=minutes)).isoformat()

    def change(statements: list[Any]) -> None:
        put(*EVIDENCE, "registration", to={"digest": "1" * 64, "created": created})(statements)
        put(*RECORD, "registration", to="1" * 64)(statements)

    checked = check(house, rewritten(house, tmp_path / "c.json", change))
    assert said in broken(checked) if said else checked.holds, broken(checked)
    details = [finding.detail for finding in checked.findings if finding.what.startswith("registration of the audit")]
    assert (f"{minutes} minutes after what it came before" in details[0]) == (0 < minutes <= 60)
    assert ("before the audit and before the unlearning" in details[0]) == (minutes < 0)


def test_a_removed_statement_is_named(house: dict[str, Path], tmp_path: Path) -> None:
    """Without the auditor's statement there is no verdict; twice the operator's is no auditor's."""
    alone = check(house, edited(house, tmp_path, lambda content: content["envelopes"].pop(1)))
    assert "statement of the auditor" in broken(alone)
    twice = check(house, edited(house, tmp_path, lambda content: content["envelopes"].__setitem__(1, content["envelopes"][0])))
    assert "occurs twice" in broken(twice)


def test_changed_evidence_and_ledger_are_named(house: dict[str, Path], tmp_path: Path) -> None:
    """Evidence edited beside the certificate, and another ledger head, do not verify."""
    copy = shutil.copytree(house["audit"], tmp_path / "audit")
    (copy / "evidence.json").write_text((copy / "evidence.json").read_text().replace("0.05", "0.06", 1))
    assert "evidence.json" in broken(check(house, audit=copy))
    assert "head of the request ledger" in broken(check(house, ledger_head="cd" * 32))


def test_statements_about_different_weights_disagree(house: dict[str, Path], tmp_path: Path) -> None:
    """Two valid statements about different weights are no certificate."""
    signer = load_signer(house["key"])
    wrong = operator_statement(house["before"], house["before"])
    path = tmp_path / "mixed.json"
    write_certificate(path, [sign(wrong, signer), sign(auditor_statement(house["audit"]), signer)])
    assert "statement of the auditor: missing" in broken(check(house, path))
    assert "statement of the operator: missing" in broken(check(house, path))


def test_it_names_no_record(house: dict[str, Path]) -> None:
    """No text, identifier or keyed hash of a record is in it."""
    content = json.loads(house["certificate.json"].read_text())
    payloads = "".join(base64.b64decode(envelope["payload"]).decode() for envelope in content["envelopes"])
    from verify.data.identity import RecordKey
    from verify.data.records import Fields, parse_records

    key = RecordKey.load()
    for record in parse_records(FORGET, Fields(), "forget"):
        assert key.of(record.fingerprint) not in payloads
    assert "Zebedee" not in payloads
    assert "Quillgate" not in payloads


def test_only_whole_folders_are_certified(house: dict[str, Path], tmp_path: Path) -> None:
    """A folder without a manifest cannot be certified, and nothing is overwritten."""
    with pytest.raises(IntegrityError):
        operator_statement(tmp_path, house["before"])
    with pytest.raises(InputError, match="written once"):
        write_certificate(house["certificate.json"], [])
    with pytest.raises(InputError, match="never replaced"):
        make_key(house["key"])
    assert stat.S_IMODE(house["key"].stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"schema": "unlearn-verify/certificate/1", "envelopes": []}', "[" * 5000]
)
def test_no_certificate_at_all(house: dict[str, Path], tmp_path: Path, content: str) -> None:
    """Empty, truncated and foreign files are refused with what to give instead."""
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(InputError):
        check(house, path)
    with pytest.raises(InputError, match="public key"):
        load_public_key(path)
    with pytest.raises(InputError, match="private key"):
        load_signer(path)


@pytest.mark.slow
def test_checking_needs_no_torch(house: dict[str, Path]) -> None:
    """The command loads neither torch nor numpy."""
    code = (
        "import sys; from verify.cli.main import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules); sys.exit(status)"
    )
    arguments = ["check", str(house["certificate.json"]), "--key", f"{house['key']}.pub"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verdict: NOT_TESTABLE" in done.stdout
    assert (
        subprocess.run([sys.executable, "-c", code, *arguments[:-1], f"{house['other']}.pub"], capture_output=True).returncode == 1
    )


@pytest.mark.parametrize("edit", ["a number", "a sentence", "the scores", "scores of another audit"])
def test_an_edited_audit_is_not_signed(house: dict[str, Path], tmp_path: Path, edit: str) -> None:
    """Whoever edits an audit can rewrite its manifest: `certify` computes the verdict again before it signs."""
    audit = shutil.copytree(house["audit"], tmp_path / "audit")
    evidence, scores = Evidence.load(audit / "evidence.json"), ScoreTable.load(audit / "scores.parquet")
    block = scores.blocks["target", "forget"]
    if edit == "a number":
        evidence.attacks[0].mean.__dict__["value"] += 1.0  # type: ignore[union-attr]
        evidence.save(audit / "evidence.json")
    elif edit == "a sentence":
        evidence.model_copy(update={"scope": "Everything is gone."}).save(audit / "evidence.json")
    elif edit == "the scores":
        block.scores["loss"][0] += 1.0
        scores.save(audit / "scores.parquet")
    else:
        fewer = replace(block, **{name: getattr(block, name)[:-1] for name in ("records", "subjects", "tokens", "loss")})
        fewer = replace(fewer, scores={name: values[:-1] for name, values in block.scores.items()})
        ScoreTable({**scores.blocks, ("target", "forget"): fewer}).save(audit / "scores.parquet")
    write_manifest(audit, "audit", json.loads((house["audit"] / "manifest.json").read_text())["about"])
    files = ("--model", str(house["after"]), "--original", str(house["before"]), "--key", str(house["key"]))
    output = tmp_path / "c.json"
    assert main(["certify", *files, "--audit", str(audit), "--output", str(output)]) in (1, 2)
    assert not output.exists()
    assert main(["certify", *files, "--audit", str(house["audit"]), "--output", str(output)]) == 0


@pytest.mark.parametrize(
    ("model", "original", "said"),
    [
        ("after", "after", "has the very weights of"),
        ("before", "after", "the audit or re-execution is about"),
        ("after", "third", "the audit or re-execution is about"),
        ("third", "before", "the audit or re-execution is about"),
    ],
)
def test_models_and_audit_of_different_deletions_are_not_signed(
    house: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, original: str, said: str
) -> None:
    """Such a certificate would never hold: whoever mixes up folders is told before anything is signed."""
    third = shutil.copytree(house["before"], tmp_path / "third")
    write_manifest(third, "model", {"method": "rollback", "parameters": {}, "weights": "3" * 64})
    folders = house | {"third": third}
    files = ("--model", str(folders[model]), "--original", str(folders[original]), "--key", str(house["key"]))
    assert main(["certify", *files, "--audit", str(house["audit"]), "--output", str(tmp_path / "c.json")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("command", ["report", "certify"])
def test_a_folder_that_is_no_audit_is_called_that(
    house: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The message names what to give instead: not a JSON file."""
    files = ["--model", str(house["after"]), "--original", str(house["before"]), "--key", str(house["key"])]
    rest = [str(house["after"])] if command == "report" else [*files, "--audit", str(house["after"]), "--output", str(tmp_path)]
    assert main([command, *rest]) == 2
    assert "holds no evidence.json. Give the folder that `verify-unlearning audit` wrote" in capsys.readouterr().err
