"""A letter says what the signed deletion record says, word for word, but for what the sender fills in."""

import base64
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from verify.certificate.check import read_claims
from verify.cli.main import main
from verify.errors import InputError
from verify.report.letter import write_letter
from verify.report.letter_check import letter_finding
from verify.schema.deletion_record import DeletionRecord

SAMPLE = Path(__file__).parents[2] / "docs" / "sample"
CERTIFICATE = SAMPLE / "certificate.json"


def filled(text: str) -> str:
    """A letter with every blank filled in, as a sender would."""
    return re.sub(r"\[[^\[\]]*\]", "Zebedee Quillgate\n1 Long Lane", text)


@pytest.mark.parametrize("name", ["letter.txt", "letter.html"])
@pytest.mark.parametrize("change", [str, filled, lambda text: text.replace("\n", "\r\n")])
def test_the_sample_letter_is_the_certificates(tmp_path: Path, name: str, change: Callable[[str], str]) -> None:
    """As it was written, with its blanks filled in, and with the line ends of another system; nothing of a name is repeated."""
    path = tmp_path / name
    path.write_text(change((SAMPLE / name).read_text()))
    found = letter_finding(path, CERTIFICATE)
    assert found.holds, found.detail
    assert re.search("what is in its 11 blanks, [0-9]+ characters, is the sender's and not compared", found.detail)
    assert "Zebedee" not in found.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", ["letter.txt", "letter.html"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("8 records", "9 records", "8 records"),
        ("exactly the same\\s+model", "nearly the same model", "This computation was repeated"),
        ("language models \\(1\\)", "language models (2)", "language models"),
        ("It behaved much like those\\s+models\\.", "", "It behaved much like those models."),
        ("No\\s+test can rule out", "Every test rules out", "No test can rule out"),
        ("We replaced the", "Everything is gone. We replaced the", None),
        ("number R-", "number S-", None),
        ("We act on your right", "All of it is gone. We act on your right", None),
    ],
)
def test_a_letter_that_says_something_else_is_found(tmp_path: Path, name: str, old: str, new: str, said: str | None) -> None:
    """A number, a word, a missing limit, a sentence more: each fails, and the finding names what the letter should say."""
    path, text = tmp_path / name, (SAMPLE / name).read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    path.write_text(changed)
    found = letter_finding(path, CERTIFICATE)
    assert not found.holds
    assert said is None or said in found.detail


@pytest.mark.slow
def test_a_blank_of_a_page_cannot_hide_the_rest(tmp_path: Path) -> None:
    """Text and line breaks may be filled in; marks that change what is shown may not."""
    path, text = tmp_path / "letter.html", (SAMPLE / "letter.html").read_text()
    for inside, holds in (("A<br>B", True), ("<style>p { display: none }</style>", False), ("<!--", False)):
        path.write_text(text.replace("[Signature]", inside))
        assert letter_finding(path, CERTIFICATE).holds is holds, inside


@pytest.mark.slow
def test_every_language_and_day_and_the_senders_own_words(tmp_path: Path) -> None:
    """A letter in another language, of a later day, or written without the certificate, holds; one in the sender's own words with
    the sender's templates."""
    record = DeletionRecord.load(SAMPLE / "deletion.json")
    path, own = tmp_path / "letter.txt", tmp_path / "own"
    for language in ("de", "fr"):
        path.write_text(write_letter(record.requests[0], record, language=language).text)
        assert letter_finding(path, CERTIFICATE).holds, language
    own.mkdir()
    (own / "en.yaml").write_text("closing: With kind regards,\n")
    path.write_text(write_letter(record.requests[0], record, templates=own).text)
    assert "Yours sincerely," in letter_finding(path, CERTIFICATE).detail
    assert letter_finding(path, CERTIFICATE, own).holds


def test_a_request_received_at_the_end_of_the_calendar(tmp_path: Path) -> None:
    """The days that a letter may be of end with the calendar."""
    content = json.loads(CERTIFICATE.read_text())
    for envelope in content["envelopes"]:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        for request in statement["predicate"].get("runDetails", {}).get("metadata", {}).get("request", {}).get("requests", ()):
            request |= {"received": "9999-12-30", "answer_by": "9999-12-31", "extended_to": "9999-12-31"}
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (tmp_path / "certificate.json").write_text(json.dumps(content))
    record = DeletionRecord.parse(json.dumps(read_claims(tmp_path / "certificate.json").requests[0]), "the record")
    path = tmp_path / "letter.txt"
    assert not letter_finding(SAMPLE / "letter.txt", tmp_path / "certificate.json").holds
    path.write_text(write_letter(record.requests[0], record, sent=date.max).text)
    assert letter_finding(path, tmp_path / "certificate.json").holds


def test_files_that_are_no_letter(tmp_path: Path) -> None:
    """Empty or foreign text names no request; what is no text, too large or absent is refused."""
    path = tmp_path / "letter.txt"
    for content in (b"", b"Dear all,"):
        path.write_bytes(content)
        assert "names no request of the certificate" in letter_finding(path, CERTIFICATE).detail
    for content in (b"\xff\xfe", b" " * (2 << 20)):
        path.write_bytes(content)
        with pytest.raises(InputError):
            letter_finding(path, CERTIFICATE)
    for absent in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="Give its"):
            letter_finding(absent, CERTIFICATE)


@pytest.mark.slow
def test_check_takes_letters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, and its word counts: a certificate that holds does not make up for a letter that does not. Nothing is compared
    with a certificate that does not hold."""
    changed = tmp_path / "letter.txt"
    changed.write_text((SAMPLE / "letter.txt").read_text().replace("8 records", "9 records"))
    keys = ["--operator-key", str(SAMPLE / "operator.key.pub"), "--auditor-key", str(SAMPLE / "auditor.key.pub")]
    letters = [["--letter", str(SAMPLE / "letter.html"), str(SAMPLE / "letter.txt")], ["--letter", str(changed)]]
    assert main(["check", str(CERTIFICATE), *keys, *letters[0]]) == 0
    out = capsys.readouterr().out
    assert out.count("holds  letter ") == 2
    assert "verdict: " in out
    assert main(["check", str(CERTIFICATE), *keys, *letters[1]]) == 1
    out = capsys.readouterr().out
    assert "FAILS  letter " in out
    assert "verdict: " not in out
    assert main(["check", str(CERTIFICATE), *keys[:2], *letters[0]]) == 1
    assert capsys.readouterr().out.count("it was not compared, as the certificate does not hold") == 2
    assert main(["check", str(CERTIFICATE), *keys, "--templates", str(tmp_path)]) == 2
