"""Rewordings are read whole or refused: by the auditor's file, record by record, and by templates."""

import json
from pathlib import Path
from typing import Any

import pytest

from verify.data.records import Record
from verify.data.rewording_files import load_rewordings
from verify.data.rewordings import Rewordings, question
from verify.errors import InputError

FORGET = [Record(f"f{n}", prompt=f"When was Ann {n} born?", completion=f"She was born on May {n}.") for n in range(1, 4)]
HOLDOUT = [Record("h1", prompt="When was Ben born?", completion="He was born on June 9.")]
SETS = {"forget": FORGET, "holdout": HOLDOUT, "retain": [Record("r", prompt="Who?", completion="Nobody.")]}
CHAT = Record("c1", messages=(("system", "Be brief."), ("user", "Who is Cy?"), ("assistant", "A baker."), ("user", "Sure?")))
PLAIN = Record("p1", completion="Di lives in Deal.")

ROWS: list[dict[str, Any]] = [
    {"record": record.example_id, "rewordings": [f"The birthday of number {n}?", f"Number {n}: born on which day?"]}
    for n, record in enumerate([*FORGET, *HOLDOUT])
]
TEMPLATES = """
templates:
  - prompt: 'When was (?P<name>.+) born\\?'
    completion: '.* on (?P<date>.+)\\.'
    rewordings:
      - 'What is the birthday of {name}?'
      - {prompt: '{name}: born when?', completion: 'On {date} {{exactly}}.'}
"""


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_auditors_file_words_every_record(tmp_path: Path) -> None:
    """By identifier or by fingerprint, in any order; nothing but the question changes."""
    rows = [{**ROWS[0]}, *ROWS[1:]]
    rows[0] = {"sha256": FORGET[0].fingerprint, "rewordings": rows[0]["rewordings"]}
    found = load_rewordings(written(tmp_path / "words.jsonl", rows[::-1]), SETS)
    assert (found.source, found.count, found.worded(FORGET + HOLDOUT)) == ("records", 2, 4)
    second = found.of(FORGET[1], 2)
    assert second is not None
    assert (second.prompt, second.completion) == ("Number 1: born on which day?", FORGET[1].completion)
    assert found.of(FORGET[1], 3) is None
    assert found.of(SETS["retain"][0], 1) is None
    assert "birthday" not in repr(found)
    assert load_rewordings(rows[::-1], SETS).digest == found.digest
    assert load_rewordings(rows, SETS).digest != found.digest


def test_chats_and_plain_texts_are_reworded_by_their_own_kind() -> None:
    """A chat by its first user's turn; a text as a whole."""
    rows = [
        {"record": "c1", "rewordings": ["Tell me about Cy."]},
        {"record": "p1", "rewordings": [{"text": "Deal is where Di has her home."}]},
    ]
    found = load_rewordings(rows, {"forget": [CHAT], "holdout": [PLAIN]})
    chat, plain = found.of(CHAT, 1), found.of(PLAIN, 1)
    assert chat is not None
    assert plain is not None
    assert question(chat) == "Tell me about Cy."
    assert [turn for turn in chat.messages if turn[1] != "Tell me about Cy."] == [t for t in CHAT.messages if t[1] != "Who is Cy?"]
    assert plain.completion == "Deal is where Di has her home."
    for rewording, record in (("a prompt", PLAIN), ({"text": "a text"}, CHAT), ({"prompt": "p", "completion": "c"}, CHAT)):
        with pytest.raises(InputError, match="row 1"):
            load_rewordings([{"record": record.example_id, "rewordings": [rewording]}], {"forget": [record]})


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_templates_read_the_fields_of_structured_records(kind: str, tmp_path: Path) -> None:
    """The first template that matches question and answer fills its wordings with what the regular expressions found."""
    path = tmp_path / f"templates.{kind}"
    as_json = {
        "templates": [
            {
                "prompt": r"When was (?P<name>.+) born\?",
                "completion": r".* on (?P<date>.+)\.",
                "rewordings": [
                    "What is the birthday of {name}?",
                    {"prompt": "{name}: born when?", "completion": "On {date} {{exactly}}."},
                ],
            }
        ]
    }
    path.write_text(TEMPLATES if kind == "yaml" else json.dumps(as_json))
    found = load_rewordings(path, SETS)
    first, second = found.of(HOLDOUT[0], 1), found.of(HOLDOUT[0], 2)
    assert first is not None
    assert second is not None
    assert (first.prompt, first.completion) == ("What is the birthday of Ben?", HOLDOUT[0].completion)
    assert (second.prompt, second.completion) == ("Ben: born when?", "On June 9 {exactly}.")
    assert found.source == "templates"


def test_the_digest_is_of_the_content_not_of_its_layout(tmp_path: Path) -> None:
    """The same templates as YAML and as JSON are the same."""
    (tmp_path / "one.yaml").write_text("templates: [{rewordings: ['Say: {all}'], prompt: '(?P<all>.+)'}]")
    (tmp_path / "two.json").write_text('{"templates": [{"prompt": "(?P<all>.+)",\n "rewordings": ["Say: {all}"]}]}')
    one, two = load_rewordings(tmp_path / "one.yaml", SETS), load_rewordings(tmp_path / "two.json", SETS)
    assert one.digest == two.digest


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:-1], r"1 of 4 forget records and controls have no rewording \(the first is holdout record 1\)"),
        ([*ROWS, ROWS[0]], "rows 1 and 5 are about the same record"),
        ([*ROWS, {**ROWS[0], "record": "r"}], "row 5 names a record that is neither in the forget set nor among the controls"),
        ([{**ROWS[0], "rewordings": ["one"]}, *ROWS[1:]], "some records have 1 rewordings, others 2"),
        ([{**ROWS[0], "rewordings": ["x", " X "]}, *ROWS[1:]], "forget record 1: rewording 2 is the same as its rewording 1"),
        (
            [{**ROWS[0], "rewordings": ["when was ann 1  BORN?", "x"]}, *ROWS[1:]],
            "forget record 1: rewording 1 is the record's own wording",
        ),
        ([{"record": "f1", "rewordings": []}], "row 1, rewordings"),
        ([{"record": "f1", "sha256": "0" * 64, "rewordings": ["x"]}], "either `record` or `sha256`"),
        ([{"rewordings": ["x"]}], "either `record` or `sha256`"),
        ([{"record": "f1", "sha": "x", "rewordings": ["x"]}], "row 1, sha"),
        ([{"record": "f1", "rewordings": [{"prompt": "x", "text": "y"}]}], "a rewording is a text"),
        ([{"record": "f1", "rewordings": [7]}], "row 1"),
        ([["f1", "x"]], "row 1"),
        (["f1"], "row 1"),
        ([{"record": "f1", "rewordings": ["x"] * 21}], "row 1, rewordings"),
        ([{"record": "f1", "rewordings": ["\ud800"]}], "row 1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(rows: list[Any], message: str, tmp_path: Path) -> None:
    """Missing, repeated and foreign records, and rows of another form; no message repeats a text."""
    with pytest.raises(InputError, match=message) as caught:
        load_rewordings(written(tmp_path / "words.jsonl", rows), SETS)
    assert "birthday" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a file of templates"),
        ("templates:", "templates"),
        ("templates: []", "templates"),
        ("templates: [{prompt: 'x', rewordings: ['y']}", "cannot be read as yaml"),
        ("templates: [{prompt: 'x', prompt: 'x', rewordings: ['y']}]", "gives a name twice"),
        ("templates: [{prompt: '(', rewordings: ['y']}]", "a regular expression is not one"),
        ("templates: [{rewordings: ['y']}]", "give regular expressions"),
        ("templates: [{prompt: '.*', rewordings: ['{name}']}]", r"uses \{name\}, but the regular expressions name none"),
        ("templates: [{prompt: '(?P<a>.*)', rewordings: ['{a.__class__}']}]", "uses"),
        ("templates: [{prompt: '(?P<a>.*)', rewordings: ['{a!r}']}]", "uses"),
        ("templates: [{prompt: '(?P<a>.*)', rewordings: ['{a']}]", "write a brace as"),
        ("templates: [{prompt: 'Where.*', rewordings: ['y']}]", "4 of 4 forget records and controls have no rewording"),
        ("templates: [{prompt: '(?P<a>.*)', rewordings: ['{a}']}]", "rewording 1 is the record's own wording"),
        ("templates: !!python/object:os.system {}", "templates"),
        ("- a list", "is not a file of templates"),
    ],
)
def test_templates_that_do_not_fit_are_refused(content: str, message: str, tmp_path: Path) -> None:
    """Cut off, ambiguous, no templates, or with fields that nothing reads."""
    path = tmp_path / "templates.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_rewordings(path, SETS)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Missing, empty, cut off, not UTF-8, of an unknown kind."""
    whole = written(tmp_path / "whole.jsonl", ROWS).read_bytes()
    for name, content, message in (
        ("empty.jsonl", b"", "holds no rewordings"),
        ("cut.jsonl", whole[:-20], "cut off"),
        ("latin.jsonl", "é".encode("latin-1"), "not UTF-8"),
        ("words.txt", whole, "unknown kind"),
        ("words.json", whole[:40], "cannot be read as json"),
        ("words.yaml", b"\xff\xfe", "cannot be read as yaml"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_rewordings(tmp_path / name, SETS)
    with pytest.raises(InputError, match="does not exist"):
        load_rewordings(tmp_path / "none.jsonl", SETS)
    with pytest.raises(InputError, match=r"is a folder\. Give a file of rewordings"):
        load_rewordings(tmp_path, SETS)


def test_a_record_that_a_model_could_not_word_has_none() -> None:
    """Fewer paraphrases than asked for are none."""
    questions = [["a", "b", "c"], ["a"], [], ["a", "b"]]
    found = Rewordings.of_questions([*FORGET, *HOLDOUT], questions, 2, "0" * 64, "1" * 64)
    assert [found.of(record, 1) is not None for record in [*FORGET, *HOLDOUT]] == [True, False, False, True]
    assert (found.worded(FORGET), found.worded(HOLDOUT)) == (1, 1)
