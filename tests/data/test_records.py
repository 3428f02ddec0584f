"""What counts as a record, and that no message ever repeats one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.data.record_sets import require_disjoint, require_trained, require_unseen, select
from verify.data.records import Fields, Record, parse_records
from verify.data.tabular import csv_rows
from verify.errors import InputError

PRIVATE = "Ada Lovelace, 12 Private Lane"


def parse(*rows: Any, fields: Fields | None = None) -> list[Record]:
    return parse_records(rows, fields or Fields(), "people.jsonl")


def test_the_three_shapes() -> None:
    """A text, a prompt with its completion, and a chat are told apart by their columns."""
    text, pair, chat = parse(
        {"text": "x"},
        {"prompt": "p", "completion": "c"},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    )
    assert (text.prompt, text.completion, text.messages) == ("", "x", ())
    assert (pair.prompt, pair.completion, pair.messages) == ("p", "c", ())
    assert chat.messages == (("user", "u"), ("assistant", "a"))
    assert [record.scored_text for record in (text, pair, chat)] == ["x", "c", "a"]


def test_identity_is_content_not_name() -> None:
    """The same content under two names has one fingerprint; other content, or another split of it, has another."""
    same, other_name, other_split, text = parse(
        {"example_id": 1, "prompt": "a", "completion": "bc"},
        {"example_id": 2, "prompt": "a", "completion": "bc"},
        {"prompt": "ab", "completion": "c"},
        {"text": "abc"},
    )
    assert same.fingerprint == other_name.fingerprint
    assert len({same.fingerprint, other_split.fingerprint, text.fingerprint}) == 3


def test_unnamed_duplicates_are_kept_apart() -> None:
    """Two equal rows of a source without identifiers are two records."""
    first, second = parse({"text": "x"}, {"text": "x"})
    assert first.example_id != second.example_id
    assert first.fingerprint == second.fingerprint


def test_repeated_identifiers_are_refused() -> None:
    """A source's own identifiers must be unique; the message names the rows, not the identifier."""
    with pytest.raises(InputError, match="rows 1 and 3 have the same 'example_id'") as caught:
        parse({"text": "x", "example_id": PRIVATE}, {"text": "y", "example_id": "b"}, {"text": "z", "example_id": PRIVATE})
    assert PRIVATE not in str(caught.value)


UNUSABLE: dict[str, Any] = {
    "not an object": [PRIVATE],
    "no shape": {"name": PRIVATE},
    "empty text": {"text": "", "note": PRIVATE},
    "blank completion": {"prompt": PRIVATE, "completion": " \n"},
    "completion without prompt": {"completion": PRIVATE},
    "text of another type": {"text": [PRIVATE]},
    "number as completion": {"prompt": PRIVATE, "completion": 7},
    "chat without assistant": {"messages": [{"role": "user", "content": PRIVATE}]},
    "chat without roles": {"messages": [{"content": PRIVATE}]},
    "chat that is a text": {"messages": PRIVATE},
    "chat with non-text content": {"messages": [{"role": "assistant", "content": [PRIVATE]}]},
    "secret from elsewhere": {"text": "x", "secret": PRIVATE},
    "half a surrogate pair": {"text": f"{PRIVATE} \ud800"},
    "half a surrogate pair in the name": {"text": "x", "subject_id": f"{PRIVATE} \udfff"},
    "half a surrogate pair in a chat": {"messages": [{"role": "assistant", "content": f"{PRIVATE} \ud800"}]},
}


@pytest.mark.parametrize("row", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_rows_are_named_by_number_alone(row: Any) -> None:
    """Whatever is wrong with a row, the message says which row and repeats nothing of it, nor does a traceback's cause."""
    with pytest.raises(InputError, match=r"people\.jsonl, row 2") as caught:
        parse({"text": "fine"}, row)
    assert "Ada" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_no_records_is_an_error() -> None:
    """An empty source is never a silent success."""
    with pytest.raises(InputError, match="no records"):
        parse()


def test_representation_hides_the_content() -> None:
    """A record in a log line or a traceback shows nothing."""
    (record,) = parse({"text": PRIVATE, "example_id": PRIVATE, "subject_id": PRIVATE})
    assert "Ada" not in repr(record)
    assert "Ada" not in f"{[record]}"


def test_question_and_answer_are_recognised_in_the_hint() -> None:
    """The commonest foreign columns get the exact flags to type."""
    with pytest.raises(InputError, match="--prompt-field question --completion-field answer"):
        parse({"question": "q", "answer": "a"})
    (record,) = parse({"question": "q", "answer": "a"}, fields=Fields(prompt="question", completion="answer"))
    assert (record.prompt, record.completion) == ("q", "a")


TRAINING = parse_records(
    [{"text": f"text {number}", "example_id": f"e{number}", "subject_id": f"s{number // 2}"} for number in range(6)],
    Fields(),
    "t",
)


@given(st.sets(st.integers(0, 5), min_size=1))
def test_select_by_example_id_gives_exactly_those(numbers: set[int]) -> None:
    """A list of ids picks its records, in training order, whatever the order and white space of the list."""
    chosen = select(TRAINING, [f" e{number}\n" for number in sorted(numbers, reverse=True)], "ids.txt")
    assert [record.example_id for record in chosen] == [f"e{number}" for number in sorted(numbers)]


def test_select_by_subject_gives_all_records_of_the_person() -> None:
    """A subject id stands for everything about that person."""
    assert [record.example_id for record in select(TRAINING, ["s1", "e0"], "ids.txt")] == ["e0", "e2", "e3"]


def test_select_refuses_unknown_and_empty_lists() -> None:
    """A misspelt id is told by its place in the list; a list of blanks selects nothing and says so."""
    with pytest.raises(InputError, match=r"1 of 3 identifiers \(entries 2\)") as caught:
        select(TRAINING, ["e0", PRIVATE, "s2"], "ids.txt")
    assert "Ada" not in str(caught.value)
    with pytest.raises(InputError, match="names no records"):
        select(TRAINING, ["", "  "], "ids.txt")


def test_forgetting_what_was_never_trained_is_refused() -> None:
    """A record outside the training data is an error, with its row."""
    require_trained(TRAINING[:2], TRAINING, "forget.jsonl")
    with pytest.raises(InputError, match=r"1 of 2 records \(rows 2\)"):
        require_trained([TRAINING[0], *parse({"text": PRIVATE})], TRAINING, "forget.jsonl")


def test_one_record_has_one_role() -> None:
    """An overlap by content or by given name is an error; rows without names overlap by content only."""
    require_disjoint({"forget": TRAINING[:2], "retain": TRAINING[2:]})
    with pytest.raises(InputError, match="share 1 records"):
        require_disjoint({"forget": TRAINING[:2], "retain": TRAINING[1:]})
    with pytest.raises(InputError, match="forget set and the holdout set"):
        require_disjoint({"forget": TRAINING[:1], "retain": [], "holdout": parse({"text": "text 0"})})
    with pytest.raises(InputError, match="share 1 records"):
        require_disjoint({"forget": TRAINING[:1], "retain": parse({"text": "other", "example_id": "e0"})})


def test_a_file_without_a_header_shows_no_row() -> None:
    """Names that may be content are counted, not shown; those of columns are listed."""
    with pytest.raises(InputError, match=r"\['note'\] and 2 more that look like content \(is the header missing\?\)") as caught:
        parse({"Ada Byron": "x", "ada@x.example": "y", "note": "z"})
    assert "Ada" not in str(caught.value)
    assert "ada" not in str(caught.value)
    with pytest.raises(InputError, match="a name that looks like content") as caught:
        list(csv_rows(["Ada Byron,Ada Byron\n"], "people.csv"))
    assert "Ada" not in str(caught.value)


SEEN = {"prompt": "Where is Ada O'Neil-Roe?", "completion": "At pace 12, Koch lane."}
SAME_TO_READ = [
    {"prompt": SEEN["prompt"].upper()},
    {"completion": SEEN["completion"] + " \n"},
    {"completion": SEEN["completion"].replace(" ", "\u00a0")},
    {"prompt": SEEN["prompt"].replace("Ada", "A\u200bda")},
    {"prompt": SEEN["prompt"].replace("Ada", "Ad\u0430")},
    {"prompt": SEEN["prompt"].replace("'", "\u2019").replace("-", "\u2010")},
    {"completion": SEEN["completion"].replace("12", "\uff11\uff12")},
]
OTHERS = [
    {"completion": "At pace 13, Koch lane."},
    {"prompt": "Where is Eda O'Neil-Roe?"},
    {"completion": "At pace 1.2, Koch lane."},
]


@pytest.mark.parametrize("change", SAME_TO_READ)
def test_a_control_that_reads_like_a_trained_record_is_refused(change: dict[str, str]) -> None:
    """Its fingerprint is another, and a model that was trained on the one knows the other."""
    seen, control, other = parse(SEEN, SEEN | change, {"text": "never seen"})
    assert seen.fingerprint != control.fingerprint
    with pytest.raises(InputError, match=r"1 of the 2 holdout records \(rows 2\) read like records of the retain set") as raised:
        require_unseen({"fresh": [], "holdout": [other, control]}, {"forget": [other][:0], "retain": [seen]})
    assert "Koch" not in str(raised.value)


@pytest.mark.parametrize("change", OTHERS)
def test_a_control_with_another_letter_or_digit_is_a_control(change: dict[str, str]) -> None:
    """Records of one pattern differ by little, and each is a record of its own; texts without visible characters are not alike."""
    require_unseen({"holdout": parse(SEEN | change)}, {"forget": parse(SEEN)})
