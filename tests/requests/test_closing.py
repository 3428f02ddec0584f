"""Closing a batch that replaced two models: one certificate for both, with what probes found, and the report on paper."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from deletion_world import ASKING, MARGIN, PEOPLE, options, rows
from report_reading import Page

import unlearn.cli.main
import verify.cli.main
from unlearn import finetune
from unlearn.requests import letters
from unlearn.requests.ledger.ledger import Ledger
from verify.certificate.statements import make_key
from verify.errors import InputError
from verify.report.pdf import chromium
from verify.schema.deletion_record import DeletionRecord
from verify.schema.robustness import Robustness

pytestmark = pytest.mark.slow
MODELS = ("original", "second")


def shell(*words: str) -> int:
    return unlearn.cli.main.main(["request", *words])


@pytest.fixture(scope="module")
def deployed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models in service saw one person's records; both were replaced, probed, and are to be closed. A copy lies beside it."""
    folder = tmp_path_factory.mktemp("two-models")
    world = folder / "desk"
    shutil.copytree(built, world)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.setenv("UNLEARN_LEDGER", str(world / "ledger.db"))
        patch.setattr("unlearn.requests.planning.describe_power", lambda *_: "simulated elsewhere")
        finetune("base", "people.jsonl", output_dir="models/second", options=options(7))
        (world / "who.txt").write_text(f"{ASKING.lower()}@example.com\n")
        assert shell("add", "--identifiers", "who.txt") == 0
        name = the_request(world)
        # First it is looked for where it is not, beside models that never saw it, and not found; then the right file is named.
        (world / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(PEOPLE[1:])))
        assert shell("approve", name) == 0
        assert shell("plan", "--data", "others.jsonl", "--models", "references") == 0
        (world / "others.jsonl").unlink()
        assert shell("approve", name) == 0
        listed = [f"references/r{number}" for number in range(1, 5)]
        plan = ["--data", "people.jsonl", "--models", "models", "--references", *listed, "--methods", "retrain"]
        plan += ["--in-service", *(f"models/{model}" for model in MODELS)]
        assert shell("plan", *plan, "--attacks", "loss", "--margin", str(MARGIN), "--no-reexecution") == 0
        assert shell("run", name) == 0
        (batch,) = (world / "deletions").glob("B-*")
        for number, model in enumerate(MODELS):
            sides = ["--model", str(batch / f"model-{number}" / "rung-0-retrain"), "--original", f"models/{model}"]
            sides += ["--references", *listed, "--forget", "who.txt", "--data", "people.jsonl"]
            assert verify.cli.main.main(["probe", *sides, "--probes", "quantization", "--output", f"probe-{number}.json"]) == 0
        (world / "who.txt").unlink()
        for role in ("operator", "auditor"):
            make_key(world / role)
    shutil.copytree(world, folder / "as-deployed", symlinks=True)
    return world


@pytest.fixture
def desk(deployed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two models as they were deployed, at the place that the plan names."""
    shutil.rmtree(deployed)
    shutil.copytree(deployed.parent / "as-deployed", deployed, symlinks=True)
    monkeypatch.chdir(deployed)
    monkeypatch.setenv("UNLEARN_LEDGER", str(deployed / "ledger.db"))
    return deployed


def the_request(world: Path) -> str:
    ledger = Ledger(world / "ledger.db")
    (request,) = ledger.requests()
    ledger.close()
    return request.id


def batch_in(world: Path) -> Path:
    return next((world / "deletions").glob("B-*"))


def close(world: Path, *words: str, retired: tuple[str, ...] = MODELS) -> int:
    """Close, cleaning up all that is left; without a PDF unless that is asked for."""
    keys = ["--operator-key", "operator", "--auditor-key", "auditor"]
    paper = [] if "--pdf" in words else ["--no-pdf"]
    named = ["--retired", *(f"models/{model}" for model in retired)] if retired else []
    return shell("close", the_request(world), *named, "--remove", "--rewrite-data", *keys, *paper, *words)


def auditors_in(certificate: Path) -> dict[str, Any]:
    """The auditor's annotations by the digest of the new weights."""
    envelopes = json.loads(certificate.read_text())["envelopes"]
    statements = [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]
    return {
        one["subject"][0]["digest"]["sha256"]: one["predicate"]["annotations"]
        for one in statements
        if "annotations" in one["predicate"]
    }


def checks(batch: Path, number: int, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The certificate against one of the models, its audit, the record and the ledger."""
    model = batch / f"model-{number}"
    beside = ["--model", str(model / "rung-0-retrain"), "--audit", *map(str, model.glob("audit-*"))]
    beside += ["--deletion", str(batch / "deletion.json"), "--ledger", "ledger.db", "--key", "operator.pub", "auditor.pub"]
    capsys.readouterr()
    status = verify.cli.main.main(["check", str(batch / "certificate.json"), *beside])
    return status, capsys.readouterr().out


def test_two_models_in_one_certificate(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both old models must be retired; then four statements are signed, and the certificate holds against each new model, and
    against neither once a bit of it is turned."""
    assert close(desk, retired=("original",)) == 2
    assert "old models" in capsys.readouterr().err, "one of two old models is still in service"
    assert (desk / "models" / "second" / "manifest.json").exists()
    assert close(desk, retired=("second",)) == 0
    batch = batch_in(desk)
    record = DeletionRecord.load(batch / "deletion.json")
    assert [model.name for model in record.models] == list(MODELS)
    assert sorted(record.retired) == sorted(model.before for model in record.models)
    assert len({digest for model in record.models for digest in (model.before, model.after)}) == 4
    assert set(auditors_in(batch / "certificate.json")) == {model.after for model in record.models}
    for number, model in enumerate(record.models):
        status, said = checks(batch, number, capsys)
        assert (status, "FAILS" in said) == (0, False), said
        assert (
            f"verdict: EQUIVALENT_WITHIN(rho = {MARGIN}, alpha = 0.05; exact text, mean loss) (weights {model.after[:16]})" in said
        )
    assert not list((desk / "models").iterdir()), "both old models go"
    page = Page((batch / "report.html").read_text()).text
    assert "2 models were replaced" in page
    assert "old models out of service: 2" in page
    weights = batch / "model-1" / "rung-0-retrain" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert checks(batch, 0, capsys)[0] == 0
    status, said = checks(batch, 1, capsys)
    assert (status, "model.safetensors" in said) == (1, True)


def test_what_was_not_found_at_first_is_deleted_in_every_paper(desk: Path) -> None:
    """A request that was `not_found` once, and was deleted later: record, letter and certificate tell of the deletion."""
    assert close(desk) == 0
    batch, name = batch_in(desk), the_request(desk)
    record = DeletionRecord.load(batch / "deletion.json")
    assert "not_found" in [event.state for event in record.requests[0].events]
    assert (record.requests[0].outcome, len(record.models)) == ("deleted", 2)
    letter = " ".join((batch / "letters" / f"{name}.txt").read_text().split())
    assert ("This was completed" in letter, "no data" in letter.lower()) == (True, False), letter
    envelopes = json.loads((batch / "certificate.json").read_text())["envelopes"]
    signed = [json.loads(base64.b64decode(envelope["payload"]))["predicate"] for envelope in envelopes]
    about = [one["runDetails"]["metadata"]["request"] for one in signed if "runDetails" in one]
    assert [request["outcome"] for entry in about for request in entry["requests"]] == ["deleted"] * 2


def test_a_copy_without_a_reason_stops_everything(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of a kind that is not changed: `close` is refused as often as it is asked, and removes nothing; without the file it
    goes on. Nothing is signed before."""
    copied = json.loads((desk / "people.jsonl").read_text().splitlines()[0])["completion"]
    (desk / "models" / "notes.md").write_text(f"Ask about {copied}.")
    whole = (desk / "people.jsonl").read_bytes()
    for _ in range(2):
        assert close(desk) == 2
        assert "notes.md" in capsys.readouterr().out
        assert (desk / "people.jsonl").read_bytes() == whole
        assert all((desk / "models" / model / "manifest.json").exists() for model in MODELS)
    assert not (batch_in(desk) / "certificate.json").exists()
    (desk / "models" / "notes.md").unlink()
    assert close(desk) == 0
    assert DeletionRecord.load(batch_in(desk) / "deletion.json").residual == ()


def test_probes_go_into_certificate_and_report(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each probe stands in the statement about its own weights and on the page; closing again, without naming them, changes
    nothing, and one that comes after the signature is refused."""
    assert close(desk, "--robustness", "probe-1.json") == 0
    batch = batch_in(desk)
    probes = [Robustness.load(desk / f"probe-{number}.json") for number in range(2)]
    signed = auditors_in(batch / "certificate.json")
    assert signed[probes[0].weights]["robustness"] is None
    assert signed[probes[1].weights]["robustness"] == json.loads(probes[1].text())
    page = Page((batch / "report.html").read_text()).text
    assert ("Does it hold up? second" in page, "Does it hold up? original" in page) == (True, False)
    assert all(row.treatment in page for row in probes[1].treated)
    assert checks(batch, 1, capsys)[0] == 0
    before = {path: path.read_bytes() for path in batch.rglob("*") if path.is_file()}
    assert close(desk, retired=()) == 0
    assert close(desk, "--robustness", "probe-1.json", retired=()) == 0
    assert {path: path.read_bytes() for path in batch.rglob("*") if path.is_file()} == before
    assert close(desk, "--robustness", "probe-0.json", retired=()) == 2
    assert "a certificate is written once" in capsys.readouterr().err
    (batch / "certificate.json").unlink()
    assert close(desk, "--robustness", "probe-0.json", retired=()) == 0
    assert [entry["robustness"] is not None for entry in auditors_in(batch / "certificate.json").values()] == [True, True]
    assert checks(batch, 0, capsys)[0] == 0


def test_a_probe_of_other_weights_is_refused_before_anything_is_done(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A probe of foreign weights, two of the same, one of other records, and a file that is none: status 2 with what is allowed,
    nothing removed, nothing noted."""
    right = Robustness.load(desk / "probe-0.json")
    right.model_copy(update={"weights": "0" * 64}).save(desk / "foreign.json")
    right.save(desk / "twin.json")
    right.model_copy(update={"forget_digest": "0" * 64}).save(desk / "others.json")
    (desk / "text.json").write_text("{}")
    for files, said in (
        (["foreign.json"], "which this deletion did not make"),
        (["probe-0.json", "twin.json"], "Name one"),
        (["others.json"], "on other records than the audit's"),
        (["text.json"], "verify-unlearning probe"),
        (["absent.json"], "absent.json"),
    ):
        assert close(desk, "--robustness", *files) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert right.weights[:16] in _refused(desk, capsys), "the message says which weights a probe may be about"
    for model in MODELS:
        assert (desk / "models" / model / "manifest.json").exists()
    ledger = Ledger("ledger.db")
    assert ledger.request(the_request(desk)).state == "purged"
    ledger.close()


def _refused(desk: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert close(desk, "--robustness", "foreign.json") == 2
    return capsys.readouterr().err


def test_a_report_on_paper_is_of_the_page_beside_it(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The PDF is printed once for each page; where it cannot be printed that is said, the request is closed all the same, and no
    PDF of an earlier page is left."""
    printed: list[str] = []

    def write_pdf(page: str, path: Path) -> None:
        printed.append(page)
        path.write_bytes(b"%PDF-")

    monkeypatch.setattr(letters, "write_pdf", write_pdf)
    assert close(desk, "--pdf") == 0
    batch = batch_in(desk)
    assert "report.pdf" in capsys.readouterr().out
    assert printed == [(batch / "report.html").read_text()]
    assert close(desk, "--pdf", retired=()) == 0
    assert len(printed) == 1

    def absent(page: str, path: Path) -> None:
        raise InputError("a PDF needs Chromium")

    monkeypatch.setattr(letters, "write_pdf", absent)
    (batch / "certificate.json").unlink()
    assert close(desk, "--pdf", "--robustness", "probe-0.json", retired=()) == 0
    said = capsys.readouterr().out
    assert "no report.pdf was written: a PDF needs Chromium" in said
    assert not (batch / "report.pdf").exists()
    assert "Does it hold up?" in (batch / "report.html").read_text()


@pytest.mark.browser
def test_close_prints_the_report(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With Chromium, `close` leaves the page as a PDF beside the certificate, and says where."""
    if chromium() is None:
        pytest.skip("Chromium is not installed (apt-get install chromium), so nothing can be printed")
    assert close(desk, "--pdf") == 0
    paper = batch_in(desk) / "report.pdf"
    assert paper.read_bytes().startswith(b"%PDF-")
    assert str(Path("deletions") / batch_in(desk).name / "report.pdf") in capsys.readouterr().out
