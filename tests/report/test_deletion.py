"""The compliance page and the letters: what was asked, done, shown and not shown, and no word more than is known."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from audits import evidence_by_table, evidence_of
from deletions import HOSTILE, OUTCOMES, hostile_record, model_of, of_other_weights, record_of, request_of
from report_reading import Page
from score_tables import simulated_table

from verify import InputError
from verify.certificate.check import Signer
from verify.certificate.signing import TEST_RESULT, load_signer, make_key, sign
from verify.certificate.statements import write_certificate
from verify.cli.main import main
from verify.report.attack_pages import attack_pages
from verify.report.deletion import render
from verify.report.letter import write_letter
from verify.report.rendering import PLAIN
from verify.schema.deletion_record import DeletionRecord, Event
from verify.schema.evidence import Evidence
from verify.schema.parts import Value
from verify.schema.robustness import Recovery, RetainHarm, Robustness, Treated

SENT = date(2026, 12, 1)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """A certified audit."""
    return evidence_of(simulated_table())


def target_of(evidence: Evidence) -> str:
    return next(model.weights for model in evidence.models if model.role == "target")


def robustness_of(evidence: Evidence, **changes: Any) -> Robustness:
    def value(number: float) -> Value:
        return Value(value=number, low=number - 0.05, high=number + 0.05, n=4, level=0.9)

    row = {"probe": "q", "original": 1.0, "target": 3.0, "references": 3.1, "records": 7}
    facts: dict[str, Any] = {
        "weights": target_of(evidence),
        "forget": 100,
        "forget_digest": evidence.set("forget").digest,
        "margin": 0.1,
        "alpha": 0.05,
        "treated": (
            Treated(treatment="int8", residual=value(0.01), accused=False, **row),
            Treated(treatment="logit lens, layer 3", residual=value(0.37), accused=True, **row),
        ),
        "recovery": Recovery(steps=(0, 10), excess=(-0.01, 0.04), area=0.021),
        "retain": RetainHarm(original=value(0.6), target=value(0.52), references=(value(0.5),)),
    }
    return Robustness(**(facts | changes))


@pytest.mark.slow
def test_page_one(evidence: Evidence) -> None:
    """Plain verdict, its word, scope, outcome counts, worst attack beside the baseline, cost, limits, residue, signers, command."""
    record = record_of(evidence)
    page = render(record, [evidence], certificate="certificate.json", signers=[Signer("auditor", "9a" * 32)])
    first = Page(page.split('<h2 class="page">')[0]).text
    worst = evidence.attack("loss", "target")
    assert worst is not None
    assert worst.auc is not None
    for expected in (
        PLAIN["EQUIVALENT_WITHIN"],
        evidence.verdict_phrase,
        "6 requests, received between 3 November 2026 and 8 November 2026. 80 records in 2 training files",
        f"{worst.auc.value:.3f} [{worst.auc.low:.3f}, {worst.auc.high:.3f}]",
        f"n = {worst.auc.n}",
        "replaced by rollback in 2 min 13 s, 0.67 of the cost of a retraining",
        "quantized export",
        *evidence.not_shown[:4],
        *record.limits,
        "9a9a9a9a9a9a9a9a",
        "verify-unlearning check certificate.json --key KEY.pub",
    ):
        assert expected in first, expected
    assert all(sentence in Page(page).text for sentence in evidence.not_shown), "the other limits follow on the next page"
    assert "proved" not in page.lower()
    assert "nothing in it is attested" in Page(render(record, [evidence])).text


def test_the_rest(evidence: Evidence) -> None:
    """Every request with its days, every place, every setting, every attack with its attacker, and both twins' digests."""
    record = record_of(evidence)
    page = render(record, [evidence], robustness=[robustness_of(evidence)])
    text = Page(page).text
    for request in record.requests:
        assert request.id in text
        assert str(request.answer_by) in text
        assert request.reason is None or request.reason in text
    for expected in (
        "support-2025.jsonl",
        "1" * 64,
        "seed = 7",
        "exports/gguf",
        record.digest,
        record.models[0].audit_digest,
        "ab" * 32,
        "Yeom et al.",
    ):
        assert expected in text, expected
    for attack in attack_pages(evidence):
        assert f"Attack: {attack.name}" in text
        assert attack.threat is not None
        assert all(sight in text for sight in attack.threat.sees)
    assert "reference: it needs the base model" in text
    assert "Not asked for: " in text
    assert "yes, 7 of 100 records" in text
    assert page.count("<svg") >= 2 + len(attack_pages(evidence))
    assert len(page.encode()) < 500_000


def test_with_every_attack_it_is_still_small(evidence: Evidence) -> None:
    """With all 25 attacks, each with its ROC curves, a page is under 500 kB."""
    threats = [threat.attack for threat in evidence.threats]
    results = [entry for entry in evidence.attacks if entry.attack == "loss"]
    curves = [curve for curve in evidence.figures.roc if curve.attack == "loss"]
    many = [entry.model_copy(update={"attack": name}) for name in threats for entry in results]
    drawn = [curve.model_copy(update={"attack": name}) for name in threats for curve in curves]
    large = evidence.model_copy(
        update={"attacks": tuple(many), "figures": evidence.figures.model_copy(update={"roc": tuple(drawn)})}
    )
    page = render(record_of(large), [large], robustness=[robustness_of(large)])
    assert page.count("<h2>Attack: ") == len(threats) >= 25
    assert len(page.encode()) < 500_000


@pytest.mark.slow
def test_late_answers_are_called_late(evidence: Evidence) -> None:
    """After the last day an answer is late, unless the person was told of an extension before it; an open one has none."""
    told, too_late = extended_on("2026-11-20"), extended_on("2026-11-21")
    noted = (*request_of("deleted", 5).events, Event(state="recipients", at="2027-05-01T12:00:00+00:00"))
    record = record_of(
        evidence,
        requests=(
            request_of("deleted", answer_by=date(2026, 11, 20), extended_to=None),
            request_of("deleted", 1, answer_by=date(2026, 11, 20), extended_to=date(2027, 1, 20), events=told),
            request_of("deleted", 2),
            request_of("deleted", 3, answer_by=date(2026, 11, 20), extended_to=date(2027, 1, 20)),
            request_of("deleted", 4, answer_by=date(2026, 11, 20), extended_to=date(2027, 1, 20), events=too_late),
            request_of("deleted", 5, answer_by=date(2026, 12, 20), extended_to=None, events=noted),
        ),
    )
    text = Page(render(record, [evidence])).text
    for day, word in ((27, "late"), (28, "within the extension"), (29, "in time"), (30, "late"), (1, "late")):
        assert f"2026-{12 if day == 1 else 11}-{day:02} {word}" in text
    assert "2026-12-02 in time" in text, "a note after the end is no answer"
    apologies = ["We apologise for the delay" in " ".join(write_letter(one, record).text.split()) for one in record.requests]
    assert apologies == [True, False, False, True, True, False]


def extended_on(day: str) -> tuple[Event, ...]:
    """The steps of a deleted request of whose extension the person was told on a day; closed as `request_of` closes it."""
    number = 1 if day == "2026-11-20" else 4
    first, *others = request_of("deleted", number).events
    return (first, Event(state="extended", at=f"{day}T12:00:00+00:00"), *others)


@pytest.mark.slow
def test_several_models_and_none(evidence: Evidence) -> None:
    """With several models page 1 has a row for each and the word of the worst; with refusals alone it says that nothing changed."""
    kept = of_other_weights(evidence_of(simulated_table(kept=0.2)))
    page = Page(render(record_of(evidence, kept), [kept, evidence])).text
    assert "2 models were replaced. The one that fared worst: the model still differs" in page
    assert kept.verdict_phrase in page
    table = of_other_weights(evidence_by_table())
    assert "or with what a level table says of such models" in Page(render(record_of(evidence, table), [evidence, table])).text
    assert "a level table says of such models" not in page
    one = kept.model_copy(update={"not_shown": (*evidence.not_shown, "Said of one alone.")})
    page = Page(render(record_of(evidence, one), [one, evidence])).text
    assert f"({target_of(one)[:8]}): Said of one alone." in page, "what is said of one model names it"
    assert all(f"): {sentence}" not in page for sentence in evidence.not_shown)
    refused = render(record_of(), [])
    assert "No model was changed" in refused
    assert "Attack:" not in refused


def test_audit_and_record_must_belong_together(evidence: Evidence) -> None:
    """A missing audit, a foreign one, a foreign probe, two about one model and a record with another verdict are refused."""
    record = record_of(evidence)
    other = robustness_of(evidence, weights="0" * 64)
    others = robustness_of(evidence, forget_digest="0" * 64)
    better = record_of(evidence, models=(model_of(evidence, verdict="INCONCLUSIVE"),))
    for facts, audits, probes, message in (
        (record, [], [], "has no audit here"),
        (record_of(), [evidence], [], "did not make"),
        (record, [evidence], [other], "did not make"),
        (record, [evidence], [others], "on other records"),
        (record, [evidence.model_copy(update={"not_shown": ()}), evidence], [], "two of the audits are about the weights"),
        (record, [evidence], [others, robustness_of(evidence)], "two of the probes are about the weights"),
        (better, [evidence], [], "says INCONCLUSIVE"),
    ):
        with pytest.raises(InputError, match=message):
            render(facts, audits, robustness=probes)


@pytest.mark.slow
def test_hostile_words_are_inert(evidence: Evidence) -> None:
    """Markup, templates, direction changes, escapes and formulas in any field are text, in the page and in the letters."""
    record = hostile_record(evidence)
    letter = write_letter(record.requests[0], record, sent=SENT)
    for page in (render(record, [evidence], certificate=HOSTILE, signers=[Signer(HOSTILE, HOSTILE)]), letter.html):
        parsed = Page(page)
        assert not {"script", "img"} & set(parsed.tags)
        assert not [name for name, _ in parsed.attributes if name.startswith("on") or name in ("src", "href")]
        assert "{{ 7*7 }}" in page
        assert not {"\x1b", "\u202e"} & set(page)
        assert "<U+202E>" in parsed.text
    assert not {"\x1b", "\u202e"} & set(letter.text)


@pytest.fixture
def folder(evidence: Evidence, tmp_path: Path) -> Path:
    """deletion.json and an audit's folder."""
    (tmp_path / "audit").mkdir()
    evidence.save(tmp_path / "audit" / "evidence.json")
    record_of(evidence).save(tmp_path / "deletion.json")
    return tmp_path


@pytest.mark.slow
def test_on_the_command_line(folder: Path) -> None:
    """Report and letters from the files; letters are private files named by the request's random number."""
    files = [str(folder / "deletion.json"), "--output"]
    assert main(["deletion-report", *files, str(folder / "report.html"), "--audits", str(folder / "audit")]) == 0
    assert "EQUIVALENT_WITHIN" in (folder / "report.html").read_text()
    assert main(["letter", *files, str(folder / "letters"), "--sent", "2026-12-01"]) == 0
    closed = [outcome for outcome in OUTCOMES if outcome != "open"]
    letters = sorted((folder / "letters").iterdir())
    assert len(letters) == 2 * len(closed)
    assert all(path.stat().st_mode & 0o077 == 0 for path in letters)
    last = DeletionRecord.load(folder / "deletion.json").requests[-1].id
    assert main(["letter", *files, str(folder / "more"), "--extension", "--requests", last]) == 0
    assert "we need more time" in (folder / "more" / f"{last}.txt").read_text()


def test_the_command_line_refuses(folder: Path, evidence: Evidence, capsys: Any) -> None:
    """A number that would leave the folder, an unknown request, an extension for everybody, and a foreign certificate."""
    record_of(evidence, requests=(request_of("denied", id="../../x"),)).save(folder / "bad.json")
    letters = ["--output", str(folder / "letters")]
    for arguments, message in (
        (["letter", str(folder / "bad.json"), *letters], "not a file name"),
        (["letter", str(folder / "deletion.json"), *letters, "--requests", "R-0"], "are not in"),
        (["letter", str(folder / "deletion.json"), *letters, "--extension"], "--requests"),
        (
            ["deletion-report", str(folder / "deletion.json"), "--output", "x.html", "--certificate", str(folder / "bad.json")],
            "not a certificate",
        ),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "letters").exists()


@pytest.mark.parametrize("command", ["deletion-report", "letter"])
def test_a_step_without_a_date_is_refused(folder: Path, capsys: Any, command: str) -> None:
    """A page and a letter say when a request ended, which such a record does not."""
    record = json.loads((folder / "deletion.json").read_text())
    record["requests"][0]["events"][-1]["at"] = "soon"
    (folder / "undated.json").write_text(json.dumps(record))
    audits = ["--audits", str(folder / "audit")] if command == "deletion-report" else []
    assert main([command, str(folder / "undated.json"), "--output", str(folder / "made"), *audits]) == 2
    assert "a step of a request bears no date" in capsys.readouterr().err


def test_a_certificate_that_no_operator_signed_is_about_no_deletion(folder: Path, capsys: Any) -> None:
    """A page names a certificate only where that is about its deletion record; one of an auditor alone is about none."""
    make_key(folder / "key")
    statement = {"predicateType": TEST_RESULT, "subject": [{"digest": {"sha256": "0" * 64}}]}
    write_certificate(folder / "certificate.json", [sign(statement, load_signer(folder / "key"))])
    files = ["--audits", str(folder / "audit"), "--certificate", str(folder / "certificate.json")]
    assert main(["deletion-report", str(folder / "deletion.json"), *files, "--output", str(folder / "report.html")]) == 2
    assert "is not about" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


@pytest.mark.slow
def test_without_chromium_the_pdf_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The message says what is missing and how to get it; the HTML file is there all the same."""
    monkeypatch.setenv("CHROMIUM", "no-such-program")
    arguments = ["deletion-report", str(folder / "deletion.json"), "--audits", str(folder / "audit")]
    assert main([*arguments, "--output", str(folder / "report.html"), "--pdf", str(folder / "report.pdf")]) == 2
    assert "apt-get install chromium" in capsys.readouterr().err
    assert (folder / "report.html").exists()
    assert not (folder / "report.pdf").exists()


def test_the_record_names_the_audit_itself(evidence: Evidence) -> None:
    """Evidence that says the same word with other numbers is not the audit that the record names."""
    edited = evidence.model_copy(update={"not_shown": ()})
    with pytest.raises(InputError, match="is not the one that the deletion record names"):
        render(record_of(evidence), [edited])
