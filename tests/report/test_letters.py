"""Letters in four languages: what was deleted, what is kept and why, who was told, and no word more than is known."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from audits import BLIND, evidence_by_table, evidence_of
from deletions import OUTCOMES, REASONS, model_of, of_other_weights, record_of, request_of
from report_reading import Page
from score_tables import simulated_table

import unlearn.purge
from verify import InputError, Settings
from verify.cli.main import main
from verify.judging.protocol import Aside
from verify.report.letter import REGIMES, write_letter
from verify.report.letter_words import FACTS, LETTERS, languages, load_words, places
from verify.schema.deletion_record import DeletionRecord, Event, Recipient, RequestFacts, ResidualCopy
from verify.schema.evidence import Evidence

SENT = date(2026, 12, 1)
LANGUAGES = ("de", "en", "es", "fr")
STATISTICS = re.compile(
    r"margin|toleran[cz]|marge|margen|confiden[cz]|konfiden|statisti|p-value|%|significan|signifikan|equivalen|äquivalen|rho|alpha",
    re.I,
)
"""Words of statistics, in four languages, that mean nothing to the person who asked."""


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """A certified audit."""
    return evidence_of(simulated_table())


def flat(letter: Any) -> str:
    """The letter on one line; page and mail say the same, but for headings that the mail sets in capitals."""
    text = " ".join(letter.text.replace("\N{NO-BREAK SPACE}", " ").split())
    page = " ".join(Page(re.sub(r"</(p|li|h\d)>|<br>", r" \g<0>", letter.html.split("</style>")[1])).text.split())
    shown = re.sub(r"(^| )- ", " ", text).casefold()
    assert " ".join(shown.split()) in " ".join(page.casefold().replace("- ", " ").split())
    return text


def written(request: RequestFacts, record: DeletionRecord | None = None, language: str = "en", **given: Any) -> str:
    return flat(write_letter(request, record, sent=SENT, language=language, **given))


def test_every_language_says_everything() -> None:
    """The same sentences with the same places in every language, all of them different words; the rights in the same order."""
    assert languages() == LANGUAGES
    english = load_words("en").texts
    for code in LANGUAGES:
        texts = load_words(code).texts
        assert list(texts) == list(english), code
        assert {name: places(text) for name, text in texts.items()} == {name: places(text) for name, text in english.items()}
        own = [name for name, text in texts.items() if code != "en" and text == english[name]]
        free = {"counted", "listed", "day", "heading.backups", "blank.signature", "first_day"}
        free |= {"kind.notebook", "kind.archive", "kind.document", "others.law.ccpa", "others.law.drop"}
        assert set(own) <= free | {f"months.{month}" for month in (4, 8, 9, 11)}, code


def test_every_kind_of_copy_has_a_word_in_every_language() -> None:
    """Whatever the purge can list is named in the person's language."""
    sources = [path.read_text() for path in Path(unlearn.purge.__path__[0]).glob("*.py")]
    found = {kind for text in sources for kind in re.findall(r'(?:Treatment|Residue)\((?:[\w.]+, )?"([a-zA-Z -]+)"', text)}
    found |= {"datasets cache", "adapter", "model", "model in service", "training file"}
    assert {"log", "checkpoint", "datasets cache", "adapter", "training data"} <= found
    for code in LANGUAGES:
        texts = load_words(code).texts
        assert not [kind for kind in found if f"kind.{kind}" not in texts], code


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_letter_is_whole_in_every_language(evidence: Evidence, outcome: Any, language: str) -> None:
    """Each outcome under each law: days, reason, rights and blanks are there; no place is left unfilled, nothing is statistics."""
    words = load_words(language)
    for regime in REGIMES:
        request = request_of(outcome, regime=regime, records=None if outcome != "deleted" else 8)
        record = record_of(evidence, requests=(request,))
        for kind in ("extension", "confirmation") if outcome == "open" else ("answer",):
            letter = write_letter(request, record, sent=SENT, kind=kind, language=language)
            text = flat(letter).replace("\N{NO-BREAK SPACE}", " ")
            expected = [words.day(SENT), words.day(request.received), request.id, *words.below(f"rights.{regime}")]
            expected += [words.say("blank.person"), words.company["sender"], words.company["contact"], words.say("closing")]
            if kind == "answer":
                expected += [words.company["retention"], words.say(f"kept.why.{regime}")]
            if outcome == "deleted":
                expected += [words.counted("found", 8), words.day(date(2026, 11, 27)), words.say("kept.entries")]
                expected += [words.company["backups"], words.say("blank.recipients"), words.say(f"law.{regime}")]
                expected += [f"{words.kind('checkpoint')} (12)", "overwritten by 31 January 2027", words.say("limit")]
            expected += [REASONS[outcome]] if outcome in REASONS else []
            if kind == "extension":
                expected += [words.day(request.answer_by), words.day(request.extended_to or SENT), words.say("blank.reason")]
                expected += [words.say(f"extension.law.{regime}")] if regime != "drop" else []
            if kind == "confirmation":
                expected += [words.company["verification"], words.day(request.answer_by)]
            for sentence in expected:
                assert " ".join(sentence.replace("\N{NO-BREAK SPACE}", " ").split()) in text, (kind, sentence)
            assert not set("{}") & set(letter.text)
            assert not STATISTICS.search(letter.text.replace("blank", "")), STATISTICS.search(letter.text)
            assert max(map(len, letter.text.splitlines())) <= 90
            assert f'<html lang="{language}">' in letter.html


def test_a_letter_counts_the_persons_own_records(evidence: Evidence) -> None:
    """In a batch the number is the person's; without it (an older record) none is given, as the record's is everybody's."""
    for records, said in (
        (1, "data about you: one record."),
        (8, "data about you: 8 records."),
        (None, "we found data about you. We"),
    ):
        pair = (request_of("deleted", records=records), request_of("deleted", 1, records=72))
        text = written(pair[0], record_of(evidence, requests=pair))
        assert said in text
        assert "80" not in text
    alone = request_of("deleted")
    assert "we found data about you: 80 records" in written(alone, record_of(evidence, requests=(alone,)))


def test_rows_that_stay_in_a_training_file_are_not_called_deleted(evidence: Evidence) -> None:
    """Where a training file still holds rows, the letter does not say that they were deleted from it."""
    request = request_of("deleted", records=8)
    left = (ResidualCopy(place="old.jsonl", kind="training file, 3 rows", reason="kept by order of a court"),)
    text = written(request, record_of(evidence, requests=(request,), residual=left))
    assert "The deletion there is not complete yet" in text
    assert "deleted these data there" not in text
    assert "Files with training data: kept by order of a court." in text
    assert "deleted these data there" in written(request, record_of(evidence, requests=(request,), residual=()))


def test_rows_of_one_person_that_stay_are_not_said_of_another(evidence: Evidence) -> None:
    """In a batch only the person whose rows a training file still holds is told so, with the reason where it is about nobody else;
    copies that were removed and that stay are each told to whom they concern, with their number."""
    first, second = request_of("deleted", records=8, removed={"log": 2, "training file": 1}), request_of("deleted", 1, records=1)
    second = second.model_copy(update={"removed": {}})
    left = (
        ResidualCopy(place="old.jsonl", kind="training file, 3 rows", reason="kept by order of a court", requests=(first.id,)),
        ResidualCopy(place="mail", kind="archive", reason="Ms Quillon asked for it", requests=(first.id, second.id)),
        ResidualCopy(place="sealed", kind="unreadable", reason="its key is lost"),
        ResidualCopy(place="run.log", kind="log", reason="in use until Friday", requests=(second.id,)),
    )
    record = record_of(evidence, requests=(first, second), residual=left)
    assert DeletionRecord.model_validate_json(record.model_dump_json(by_alias=True)) == record
    for language in LANGUAGES:
        words = load_words(language)
        mine, theirs = (written(request, record, language) for request in (first, second))
        partly, whole = (
            words.say("erased.partly", day=words.day(date(2026, 11, 27))),
            words.say("erased.whole", day="").split(".")[0],
        )
        assert (partly.replace("\N{NO-BREAK SPACE}", " ") in mine, whole in theirs) == (True, True), language
        assert "kept by order of a court" in mine
        assert "kept by order of a court" not in theirs
        assert "in use until Friday" in theirs
        assert "in use until Friday" not in mine
        assert "Quillon" not in mine + theirs, "a reason for a copy of both may speak of one of them"
        for text in (mine, theirs):
            assert text.count(words.say("blank.whether").replace("\N{NO-BREAK SPACE}", " ")) == 1, "nobody knows what it holds"
            assert text.count(words.say("blank.reason").replace("\N{NO-BREAK SPACE}", " ")) == 1
        assert (f"{words.kind('log')} (2)" in mine, f"{words.kind('log')} (" in theirs) == (True, False)
        assert f"{words.kind('training file')} (" not in mine, "the training file is no copy"
    pair = (first.model_copy(update={"removed": None}), second.model_copy(update={"removed": None}))
    unknown = record_of(evidence, requests=pair, residual=(left[0].model_copy(update={"requests": None}),))
    for request in pair:  # a record of an earlier version does not say whose rows they are
        text = written(request, unknown)
        assert "The deletion there may not be complete yet; see below." in text
        assert "order of a court" not in text


@pytest.mark.slow
def test_near_duplicates_that_stay_are_told_to_whom_they_concern(evidence: Evidence) -> None:
    """Rows that were left although they are nearly one person's record are counted in that person's letter alone; why, the sender
    says."""
    for count, form in ((1, "One other record that is worded nearly like"), (3, "3 other records that are worded nearly like")):
        pair = (request_of("deleted", near_left=count), request_of("deleted", 1, near_left=0))
        record = record_of(evidence, requests=pair)
        assert DeletionRecord.model_validate_json(record.model_dump_json(by_alias=True)) == record
        mine, theirs = (written(request, record) for request in pair)
        assert f"{form} one of yours stayed in the data from which our language models learn: [say here why]." in mine
        assert "one of yours" not in theirs
        for language in LANGUAGES:
            said = load_words(language).counted("near_left", count, reason=load_words(language).say("blank.reason"))
            assert " ".join(said.replace("\N{NO-BREAK SPACE}", " ").split()) in written(pair[0], record, language)


def test_a_late_refusal_is_called_late(evidence: Evidence) -> None:
    """An answer after the deadline says so, whatever it is; a withdrawal needs none."""
    for outcome in OUTCOMES:
        if outcome == "open":
            continue
        late = request_of(outcome, answer_by=date(2026, 11, 4), extended_to=None)
        record = record_of(evidence, requests=(late,))
        assert ("We apologise for the delay." in written(late, record)) is (outcome != "withdrawn"), outcome
        due = request_of(outcome)
        assert "apologise" not in written(due, record_of(evidence, requests=(due,))), outcome


def test_old_models_are_called_out_of_use_only_where_they_are(evidence: Evidence) -> None:
    """The operator states which weights are out of service."""
    request = request_of("deleted")
    assert "no longer in use" in written(request, record_of(evidence, requests=(request,)))
    assert "no longer in use" not in written(request, record_of(evidence, requests=(request,), retired=()))


def told(kind: Any, **facts: Any) -> Recipient:
    return Recipient(kind=kind, due=date(2026, 12, 3), **facts)


@pytest.mark.parametrize(
    ("recipients", "said"),
    [
        (None, "[Say here to whom these data had been passed on"),
        ((), "We had not passed these data on to anybody."),
        ((told("processor", told=SENT),), "one recipient. We have told this recipient that the data must be deleted (Article 19"),
        (
            (told("processor", told=SENT), told("recipient")),
            "2 recipients. So far we have told 1 of them that the data must be deleted (Article 19 of the General Data",
        ),
        (
            (told("processor", told=SENT, confirmed=SENT), told("fine-tune", told=SENT)),
            "So far, the deletion has been confirmed to us by 1 of them.",
        ),
        ((told("processor", told=SENT, confirmed=SENT),), "This recipient has confirmed the deletion to us."),
        ((told("processor", confirmed=SENT), told("recipient", confirmed=SENT)), "All of those that we have told have confirmed"),
        ((told("recipient", unreachable=True),), "one recipient. This recipient could not be told"),
        ((told("processor"), told("recipient", unreachable=True)), "One recipient could not be told"),
        ((told("processor"),), "one recipient. We have not yet given notice that the data must be deleted (Article 19"),
        (
            (told("processor", told=SENT), told("recipient", unreachable=True)),
            "We have told 1 of them that the data must be deleted",
        ),
        ((told("recipient", told=SENT, unreachable=True),), "We have told this recipient that the data must be deleted"),
        ((told("vector-store"),), "[Say here to whom these data had been passed on"),
        (
            (told("vector-store", confirmed=SENT), told("prompt-log")),
            "2 other systems of ours, such as search indexes or logs. So far, the de",
        ),
        ((told("vector-store"),), "such as a search index or a log. The deletion there has not been confirmed yet."),
        ((told("vector-store", confirmed=SENT),), "such as a search index or a log. The deletion there has been confirmed."),
    ],
)
def test_recipients(evidence: Evidence, recipients: Any, said: str) -> None:
    """Who was told (Article 19) is said by numbers, from what the ledger holds; where nothing was stated a blank asks for it."""
    request = request_of("deleted", recipients=recipients)
    record = record_of(evidence, requests=(request,))
    text = written(request, record)
    assert said in text
    assert ("If you ask us, we will tell you who they are." in text) is bool(recipients and recipients[0].kind != "vector-store")
    assert DeletionRecord.model_validate_json(record.model_dump_json(by_alias=True)) == record
    for language in LANGUAGES:
        written(request, record, language)


def test_nobody_else_is_said_beside_systems_of_ones_own(evidence: Evidence) -> None:
    """Where the operator states it, the letter leaves no blank; the systems are still counted."""
    request = request_of("deleted", recipients=(told("vector-store"),), nobody=True)
    text = written(request, record_of(evidence, requests=(request,)))
    assert "Say here to whom" not in text
    assert " ".join(load_words("en").texts["others.nobody"].split()) in " ".join(text.split())


def test_a_letter_of_a_batch_speaks_of_nobody_else(evidence: Evidence) -> None:
    """Where several requests were answered together, a letter says so, counts no copies, and gives no reason that may be about
    another person's copy; where one was, it stands there with its reason."""
    reason = "Ms Quillon's employer was ordered by a court to keep it"
    copies = tuple(ResidualCopy(place=f"{kind}-{turn}", kind=kind, reason=reason) for turn in (1, 2) for kind in ("log", "backup"))
    two = record_of(evidence, requests=(request_of("deleted"), request_of("deleted", 1)), residual=copies)
    for request in two.requests:
        text = written(request, two)
        assert "Quillon" not in text
        assert "together with another one. In what we say here about our language models, “these data” means" in text
        assert "stored states of a training, optimizer state, Arrow cache. Some" in text, (
            "without counts, which are of all requests"
        )
        assert "places may have held no data about you" in text
        assert text.count("[say here whether these contain data about this person, and why they remain]") == 2
        assert (text.count("Log files"), text.count("Backup copies")) == (1, 1), "kinds only, each once"
    three = record_of(evidence, requests=(*two.requests, request_of("deleted", 2), request_of("denied")), residual=())
    text = written(three.requests[0], three)
    assert "together with 2 others" in text
    assert "could not delete" not in text.lower()
    one = record_of(evidence, requests=(request_of("deleted"), request_of("denied")), residual=copies)
    text = written(one.requests[0], one)
    assert text.count(reason) == 2, "each kind once"
    assert "together" not in text.replace("Together with a secret key", "")


def test_letters_that_cannot_be_written(evidence: Evidence) -> None:
    """No answer while a request is open, no extension or confirmation once it is closed, no deletion unrecorded."""
    for request, kind, message in (
        (request_of("open"), "answer", "still open"),
        (request_of("denied"), "extension", "can no longer be extended"),
        (request_of("denied"), "confirmation", "need not be confirmed"),
        (request_of("open", extended_to=None), "extension", "know no extension"),
        (request_of("open", regime="drop", extended_to=None), "extension", "know no extension"),
        (request_of("deleted"), "answer", "needs its deletion record"),
        (request_of("denied", regime="lgpd"), "answer", "no letter for the rules"),
        (request_of("denied", language="tlh"), "answer", "no letters in 'tlh'. Use one of: de, en, es, fr"),
    ):
        with pytest.raises(InputError, match=message):
            write_letter(request, sent=SENT, kind=kind)  # type: ignore[arg-type]
    late = request_of("deleted", answer_by=date(2026, 11, 20), extended_to=None)
    assert "We apologise for the delay" in written(late, record_of(evidence, requests=(late,)))
    noted = Event(state="recipients", at="2027-05-01T12:00:00+00:00")
    later = request_of("deleted", events=(*request_of("deleted").events, noted))
    assert "apologise" not in written(later, record_of(evidence, requests=(later,))), "a later note is no late answer"


@pytest.mark.slow
def test_a_letter_about_an_audit_by_a_level_table_says_so() -> None:
    """Compared with what models without the data had shown earlier; in every language, asked otherwise or not."""
    for channels, asked in ((None, False), ({"instruction": 0.0}, True)):
        audit = evidence_by_table(channels=channels)
        record = record_of(audit, models=(model_of(audit),))
        text = " ".join(written(record.requests[0], record).split())
        assert "We compared it with what models that were trained without them had shown earlier" in text
        assert ("in other ways of asking for them" in text) is asked
        assert "no models that were trained without" not in text
        for language in ("de", "es", "fr"):
            request = request_of("deleted", language=language)
            assert write_letter(request, record_of(audit, models=(model_of(audit),), requests=(request,)), sent=SENT).text


@pytest.mark.slow
def test_a_letter_claims_no_comparison_that_was_not_made() -> None:
    """Without models that were trained without the data, the letter mentions none; what is equivalent behaved much alike."""
    silent = evidence_of(simulated_table(references=0), Settings(planted_draws=40, twins=True), Aside(BLIND, 0.5))
    assert silent.verdict == "INCONCLUSIVE"
    for audit, compared in ((silent, False), (evidence_of(simulated_table(references=8, retain=False)), True)):
        record = record_of(audit, models=(model_of(audit, basis="exact rebuild"),))
        text = written(record.requests[0], record)
        assert ("against models that were trained without them" in text) is compared
        assert ("had no models that were trained without these data" in text) is not compared
    kept = evidence_of(simulated_table(kept=0.2))
    record = record_of(kept, models=(model_of(kept),), requests=(request_of("deleted"),))
    assert "We found signs that these data have left traces" in written(record.requests[0], record)
    good = evidence_of(simulated_table())
    record = record_of(good, of_other_weights(good), requests=(request_of("deleted"),))
    text = written(record.requests[0], record)
    assert "It behaved much like those models. We did not test other ways" in text
    assert "replaced the 2 language models" in text
    record = record_of(good, of_other_weights(kept), requests=(request_of("deleted"),))
    text = written(record.requests[0], record)
    assert text.count("Of 1 of these 2 models we can say this: We tested the new model") == 2


@pytest.mark.slow
def test_a_letter_about_shards_names_what_they_were_compared_with(evidence: Evidence) -> None:
    """Where only shards that never saw the data judged, there was something to compare with, and it was no other model."""
    for verdict in ("NOT_FORGOTTEN", "INCONCLUSIVE"):
        model = model_of(evidence, verdict=verdict, tested_by=("shard siblings",))
        record = record_of(evidence, models=(model,), requests=(request_of("deleted"),))
        for language in LANGUAGES:
            words = load_words(language)
            text = written(record.requests[0], record, language)
            said = f"{words.say('compared.siblings')} {words.say(f'result.{verdict}')}"
            assert " ".join(said.replace("\N{NO-BREAK SPACE}", " ").split()) in text
            assert " ".join(words.say("compared.alone").replace("\N{NO-BREAK SPACE}", " ").split()) not in text


def test_a_company_says_its_own_once(evidence: Evidence, tmp_path: Path) -> None:
    """Facts for all languages or for each, a sentence of its own, a layout of its own, a default language; the rest stays ours."""
    (tmp_path / "company.yaml").write_text(
        "language: de\nsender: |\n  Example AG\n  Hauptstrasse 1\ncontact: privacy@example.org\n"
        "retention:\n  de: Wir bewahren beides drei Jahre auf.\n  en: We keep both for three years.\n"
    )
    (tmp_path / "de.yaml").write_text('late: "Wir bedauern das sehr ({due})."\nclosing: ""\n')
    request = request_of("deleted", answer_by=date(2026, 11, 20), extended_to=None)
    record = record_of(evidence, requests=(request,))
    letter = write_letter(request, record, sent=SENT, templates=tmp_path)
    assert letter.text.startswith("Example AG\nHauptstrasse 1\n")
    assert "Example AG<br>Hauptstrasse 1" in letter.html
    text = flat(letter)
    assert "Wir bedauern das sehr (20. November 2026)." in text
    assert "Wir bewahren beides drei Jahre auf." in text
    assert "wenden Sie sich bitte an privacy@example.org." in text
    assert load_words("de").company["backups"] in text, "what the company leaves out is a blank"
    assert "Mit freundlichen" not in text, "a company may leave out the closing"
    assert "Art.\N{NO-BREAK SPACE}17 Abs.\N{NO-BREAK SPACE}1 der" in letter.text, "a reference stays on one line"
    assert "We keep both for three years." in written(request, record, "en", templates=tmp_path)
    assert load_words("fr").company["retention"] in written(request, record, "fr", templates=tmp_path).replace(
        "\N{NO-BREAK SPACE}", " "
    )
    (tmp_path / "letter.html.j2").write_text("<p>{{ subject }}</p>")
    assert (
        write_letter(request, record, templates=tmp_path, language="en").html == "<p>Your request to delete your personal data</p>"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("de.yaml", "hedaing: {done: x}\n", "'hedaing.done' is not a sentence of the letters"),
        ("de.yaml", 'late: "{name}"\n', "late has the place {name}. It may have: {authority}"),
        ("de.yaml", 'late: "{due.year}"\n', "braces of late are not places"),
        ("de.yaml", 'late: "{due!r}"\n', "braces of late are not places"),
        ("de.yaml", 'late: "{due"\n', "braces of late are not places"),
        ("de.yaml", "late: a\nlate: b\n", "gives late twice"),
        ("de.yaml", "late: [\n", "is not YAML"),
        ("de.yaml", "", "holds no sentences"),
        ("de.yaml", "\x00", "is not YAML"),
        ("it.yaml", "late: a\n", "is a language of its own and lacks"),
        ("company.yaml", "sendr: x\n", "'sendr' is not asked for. Use: language, sender"),
        ("company.yaml", "language: xx\n", "no letters in 'xx'"),
    ],
)
def test_templates_that_cannot_be_used(tmp_path: Path, name: str, content: str, said: str) -> None:
    """What a company's file says wrongly is named with file and sentence, before any letter is written."""
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(said)):
        load_words(None if name == "company.yaml" else Path(name).stem, tmp_path)


def test_templates_on_the_command_line(evidence: Evidence, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`letter-templates` copies every file, which then give the same letters; no folder, no letters."""
    record_of(evidence, requests=(request_of("deleted", language="fr"),)).save(tmp_path / "deletion.json")
    assert main(["letter-templates", str(tmp_path / "own")]) == 0
    assert {path.name for path in (tmp_path / "own").iterdir()} == {path.name for path in LETTERS.iterdir() if path.is_file()}
    assert main(["letter-templates", str(tmp_path / "own")]) == 2, "nothing is overwritten"
    letters = ["letter", str(tmp_path / "deletion.json"), "--sent", "2026-12-01", "--output"]
    assert main([*letters, str(tmp_path / "ours")]) == 0
    assert main([*letters, str(tmp_path / "theirs"), "--templates", str(tmp_path / "own")]) == 0
    (ours,), (theirs,) = (list((tmp_path / name).glob("*.txt")) for name in ("ours", "theirs"))
    assert ours.read_text() == theirs.read_text()
    assert "Votre demande d’effacement" in ours.read_text(), "the language that was noted with the request"
    assert main([*letters, str(tmp_path / "x"), "--templates", str(tmp_path / "absent")]) == 2
    assert "is not a folder of letter templates" in capsys.readouterr().err
    (tmp_path / "own" / "company.yaml").write_text("signature: E. Example\n")
    monkeypatch.setenv("UNLEARN_VERIFY_LETTERS", str(tmp_path / "own"))
    assert main([*letters, str(tmp_path / "spanish"), "--language", "es"]) == 0
    (spanish,) = (tmp_path / "spanish").glob("*.txt")
    assert spanish.read_text().endswith("E. Example\n")
    assert "Su solicitud de supresión" in spanish.read_text()
    assert set(FACTS) <= {line.split(":")[0] for line in (LETTERS / "company.yaml").read_text().splitlines()}
