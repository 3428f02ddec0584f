"""A certificate names the channels that it was given for, and one whose channels contradict its verdict is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audits import evidence_of
from certificates import about, broken, check, rewritten
from score_tables import simulated_table, with_channels

from verify.certificate.claims import RESULTS
from verify.errors import InputError
from verify.schema.evidence import Evidence

HONEST = {"rewording 1": 0.0, "layer 1": 0.0}


@pytest.fixture(scope="module")
def audits() -> dict[str, Evidence]:
    """One audit that certifies on three channels, and one that a rewording accuses."""
    truths = {"certified": HONEST, "accused": HONEST | {"rewording 1": 0.6}}
    return {name: evidence_of(with_channels(simulated_table(references=8), kept)) for name, kept in truths.items()}


def test_a_certificate_names_the_channels(house: dict[str, Path], audits: dict[str, Evidence], tmp_path: Path) -> None:
    """The word and the list that were signed are those that the check prints."""
    found = check(house, rewritten(house, tmp_path / "c.json", about(audits["certified"], lambda _: None)))
    assert found.holds, broken(found)
    assert list(found.phrases.values()) == ["EQUIVALENT_WITHIN(rho = 0.1, alpha = 0.05; 3 channels)"]
    assert [one.detail for one in found.findings if one.what == "what was asked"] == ["exact text, rewording 1, layer 1"]


def test_the_auditors_statement_says_what_was_asked(house: dict[str, Path]) -> None:
    """A certificate of an audit that asked in no other way says so, and holds."""
    found = check(house)
    assert found.holds
    assert [one.detail for one in found.findings if one.what == "what was asked"] == ["exact text, mean loss"]


def drop_channel(found: dict[str, Any]) -> None:
    found["evidence"]["channels"] = [one for one in found["evidence"]["channels"] if one["name"] != "rewording 1"]


def drop_channels(found: dict[str, Any]) -> None:
    found["evidence"]["channels"], found["asked"] = [], ["exact text"]


def accuse(found: dict[str, Any]) -> None:
    found["evidence"]["channels"][1] |= {"accused": True, "certified": False}
    found["asked"] = ["exact text", "layer 1"]


def leave_open(found: dict[str, Any]) -> None:
    found["evidence"]["channels"][1] |= {"certified": False}
    found["asked"] = ["exact text", "layer 1"]


def more_asked(found: dict[str, Any]) -> None:
    found["asked"].append("rewording 2")


def impossible(found: dict[str, Any]) -> None:
    found["evidence"]["channels"][1] |= {"valid": False}


def twice(found: dict[str, Any]) -> None:
    found["evidence"]["channels"].append(found["evidence"]["channels"][2])
    found["asked"].append("layer 1")


def against_tests(found: dict[str, Any]) -> None:
    found["evidence"]["tests"][0]["fired"] = False


def against_gates(found: dict[str, Any]) -> None:
    next(gate for gate in found["evidence"]["gates"] if gate["name"] == "innocent references")["passed"] = False


def a_record(found: dict[str, Any]) -> None:
    found["records_accused"] = 1


def a_subject(found: dict[str, Any]) -> None:
    found["evidence"]["subjects"] = 1


def called_old(found: dict[str, Any]) -> None:
    del found["evidence"]["settings"]["rule"]


def another_word(found: dict[str, Any]) -> None:
    found["evidence"]["verdict"] = "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_channel, "its channels say exact text, layer 1"),
        (drop_channels, "other channels than those that it was asked on"),
        (accuse, "although rewording 1 was found beyond the margin"),
        (leave_open, "'rewording 1' was not shown to be within the margin"),
        (more_asked, "its channels say exact text, rewording 1, layer 1"),
        (twice, "'layer 1' is listed twice"),
        (against_tests, "against its own tests"),
        (against_gates, "the check 'innocent references' did not pass"),
        (a_record, "although a record was found beyond the margin"),
        (a_subject, "although a record was found beyond the margin"),
        (called_old, "a verdict by rule 1 has no channels"),
        (another_word, "its evidence INCONCLUSIVE"),
    ],
)
def test_channels_that_contradict_the_verdict_are_refused(
    house: dict[str, Path], audits: dict[str, Evidence], tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    """Signed by the right keys or not: what was asked must follow from what was signed beside it."""
    found = check(house, rewritten(house, tmp_path / "c.json", about(audits["certified"], change)))
    assert not found.holds
    assert said in broken(found)


def test_an_impossible_channel_is_refused(house: dict[str, Path], audits: dict[str, Evidence], tmp_path: Path) -> None:
    """A channel that certifies although it cannot is no evidence at all."""
    with pytest.raises(InputError, match="lacks what this version expects"):
        check(house, rewritten(house, tmp_path / "c.json", about(audits["certified"], impossible)))


@pytest.mark.parametrize("name", ["certified", "accused"])
def test_evidence_that_contradicts_its_channels_is_not_read(audits: dict[str, Evidence], tmp_path: Path, name: str) -> None:
    """The file itself is refused, with what contradicts it; as written by the audit it reads and is the same to the byte."""
    path = tmp_path / "evidence.json"
    audits[name].save(path)
    assert Evidence.load(path).text() == path.read_text()
    content = json.loads(path.read_text())
    other = json.loads(audits["accused" if name == "certified" else "certified"].text())
    path.write_text(json.dumps(content | {"channels": other["channels"]}))
    with pytest.raises(InputError, match="the verdict contradicts itself"):
        Evidence.load(path)
    for channels in ([{}], [content["channels"][0] | {"statistic": "NaN"}], {}, None):
        path.write_text(json.dumps(content | {"channels": channels}))
        with pytest.raises(InputError):
            Evidence.load(path)


OURS = "unlearn-verify/evidence/1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"verdict": "INCONCLUSIVE"},
            r"is not what an audit writes: the verdict contradicts itself: it is INCONCLUSIVE, and 'asked otherwise'",
        ),
        (
            {"accused_by": []},
            r"is not what an audit writes: the verdict contradicts itself: it is NOT_FORGOTTEN, and nothing is said",
        ),
        ({"surprise": "Nora Velt"}, r"is not what an audit writes: it has a field that the schema does not name\. It was edited"),
        ({"duration_seconds": -1.0}, r"is not what an audit writes: duration_seconds: Input should be greater"),
        (
            {"schema": "unlearn-verify/evidence/2"},
            rf"another kind or version: it says .*evidence/2', and this version reads '{OURS}'",
        ),
        (
            {"schema": "unlearn-verify/robustness/1"},
            rf"another kind or version: it says .*robustness/1', and this version reads '{OURS}'",
        ),
        ({"schema": "Nora Velt"}, rf"is not evidence: it does not say '{OURS}'\. Give the folder"),
    ],
    ids=str,
)
def test_a_refused_file_is_told_from_one_of_another_version(
    audits: dict[str, Evidence], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """What contradicts what, or which version is read and which was found; never that a version is not itself, and no content."""
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(json.loads(audits["accused"].text()) | change))
    with pytest.raises(InputError, match=said) as error:
        Evidence.load(path)
    assert str(error.value).count(OURS) <= 1
    assert not re.search("Value error|Nora", str(error.value))


def no_such_margin(found: dict[str, Any]) -> None:
    found["evidence"]["settings"]["margin"] = 1.1


def no_such_rule(found: dict[str, Any]) -> None:
    found["evidence"]["settings"]["rule"] = 0


def no_records(found: dict[str, Any]) -> None:
    found["evidence"]["sets"][0]["records"] = 0


def no_such_role(found: dict[str, Any]) -> None:
    found["evidence"]["attacks"][0]["family"] = "membershipx"


def no_references(found: dict[str, Any]) -> None:
    found["evidence"]["models"] = [one for one in found["evidence"]["models"] if one["role"] != "reference"]


def no_positive_control(found: dict[str, Any]) -> None:
    found["evidence"]["gates"] = [one for one in found["evidence"]["gates"] if one["name"] != "positive control"]


def no_gates(found: dict[str, Any]) -> None:
    found["evidence"]["gates"] = []


def said_to_accuse(found: dict[str, Any]) -> None:
    found["evidence"]["accused_by"] = ["retrained references"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_such_margin, "not valid: margin"),
        (no_such_rule, "not valid: rule"),
        (no_records, "not valid: records"),
        (no_such_role, "not valid"),
        (no_references, "it certifies by 0 retrained references; 3 are needed"),
        (no_positive_control, "without the check 'positive control'"),
        (no_gates, "without the check 'negative control'"),
        (said_to_accuse, "'retrained references' is said to accuse"),
    ],
)
def test_evidence_that_no_audit_writes_is_refused(
    house: dict[str, Path], audits: dict[str, Evidence], tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    """Signed by the right keys or not: a certificate rests on settings, references and checks that an audit can have had."""
    found = check(house, rewritten(house, tmp_path / "c.json", about(audits["certified"], change)))
    assert not found.holds
    assert said in broken(found)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("NOT_FORGOTTEN", "it is NOT_FORGOTTEN, and nothing is said to accuse"),
        ("NOT_TESTABLE", "although every check that could forbid a judgement passed"),
    ],
)
def test_another_word_must_rest_on_something(
    house: dict[str, Path], audits: dict[str, Evidence], tmp_path: Path, word: str, said: str
) -> None:
    """An accusation names what accuses, and a refusal to judge the check that failed."""

    def change(found: dict[str, Any]) -> None:
        found["verdict"] = found["evidence"]["verdict"] = word

    def both(statements: list[Any]) -> None:
        about(audits["certified"], change)(statements)
        statements[1]["predicate"]["result"] = RESULTS[word]

    found = check(house, rewritten(house, tmp_path / "c.json", both))
    assert said in broken(found)
