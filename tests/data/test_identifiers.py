"""Identifiers name the same person in every type, and what names nobody for certain is refused with its row."""

import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from verify.data.identifiers import identifier_of, subjects_of
from verify.data.records import Fields, parse_records
from verify.errors import InputError


@pytest.mark.parametrize("value", [12, 12.0, "12", np.int64(12), np.float32(12), Decimal("12.00"), np.array(12)], ids=repr)
def test_a_whole_number_is_one_identifier_in_every_type(value: Any) -> None:
    """What pandas made a float of names the person that the integer named."""
    assert identifier_of(value, "id", "row 1") == "12"


def test_other_types_that_name_somebody() -> None:
    """Text stays as it is; a UUID and a fraction have one written form."""
    name = uuid.uuid4()
    assert [identifier_of(value, "id", "r") for value in (" Ada ", name, 1.5, None)] == [" Ada ", str(name), "1.5", None]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), np.float64("nan"), Decimal("NaN"), pd.NA, pd.NaT, "", " \t", "\u200b", "\ufeff",
        True, np.bool_(False), b"ada",
        {"name": "ada"}, 1e300, 2.0**53, 1j, torch.tensor(12), torch.tensor([1, 2]), np.zeros((2, 2)), object(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("column", ["example_id", "subject_id"])
def test_what_names_nobody_is_refused_with_its_row(value: Any, column: str) -> None:
    """NaN, blanks, objects and numbers that may have lost digits are no identifiers; the message repeats no value."""
    with pytest.raises(InputError, match=rf"people, row 2: '{column}'") as caught:
        parse_records([{"text": "x"}, {"text": "y", column: value}], Fields(), "people")
    assert "ada" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [["ada", 7], ("ada", 7.0), np.array(["ada", "7"]), '["ada", 7]', "['ada', '7']", ["ada", "7", "ada"]], ids=repr
)
def test_a_list_names_several_people(value: Any) -> None:
    """A list in any form, also as CSV files spell it, is everybody in it, each once."""
    (record,) = parse_records([{"text": "x", "subject_id": value}], Fields(), "people")
    assert record.subjects == ("ada", "7")
    assert record.subject_id == "ada"


def test_lists_without_certain_people() -> None:
    """An empty list is nobody; one with a gap is refused; a bracketed name is a name; an identifier is never a list."""
    assert subjects_of([], "s", "r") == subjects_of(None, "s", "r") == ()
    assert subjects_of("[redacted]", "s", "r") == ("[redacted]",)
    for value in (["ada", None], ["ada", ""], [["ada"]], {"ada": 1}):
        with pytest.raises(InputError, match="row 1"):
            parse_records([{"text": "x", "subject_id": value}], Fields(), "people")
    with pytest.raises(InputError, match="'example_id' is list"):
        parse_records([{"text": "x", "example_id": ["a", "b"]}], Fields(), "people")


@pytest.mark.parametrize("value", ['["a", "b"]', "['a', 'b']", "('a','b')", " ['a',\n 'b'] "], ids=repr)
def test_lists_as_text(value: str) -> None:
    """JSON, and Python lists and tuples; an empty one is nobody, and a UUID in braces is one name."""
    assert subjects_of(value, "s", "r") == ("a", "b")
    assert subjects_of("[]", "s", "r") == subjects_of(" [ ] ", "s", "r") == subjects_of("()", "s", "r") == ()
    braces = "{3f2504e0-4f89-11d3-9a0c-0305e82c3301}"
    assert subjects_of(braces, "s", "r") == (braces,)


@pytest.mark.parametrize(
    "value",
    ["['a@x.example' 'ada']", "['a' 'b', 'c']", "[ada@x, b@y]", "[ada@x]", '{"ada","b"}', "{'ada'}", "[nan]", "[None]", "[1 2]",
     "(ada)", '["ada"', "['ada' 'b'", "{}", '{"n": "ada"}', "[NaN]", "[ada, b)]", "[" * 5000 + "]" * 5000],
    ids=range(17),
)  # fmt: skip
def test_other_text_in_brackets_is_no_single_person(value: str) -> None:
    """What several people may stand in is refused with its row, never one joined name; an open bracket is not in brackets."""
    if value[-1] not in ")]}":
        assert subjects_of(value, "s", "r") == (value,)
        return
    with pytest.raises(InputError, match=r"people, row 1: .*'subject_id'") as caught:
        parse_records([{"text": "x", "subject_id": value}], Fields(), "people")
    assert "ada" not in str(caught.value)


def test_numbers_at_the_ends_of_their_types() -> None:
    """Whole numbers of any size are exact; a float is one up to its own width, also in an array."""
    assert identifier_of(10**400, "id", "r") == identifier_of(Fraction(10**400), "id", "r") == "1" + "0" * 400
    assert identifier_of(np.float32(2**24 - 1), "id", "r") == "16777215"
    assert identifier_of(np.float16(2**11 - 1), "id", "r") == "2047"
    assert subjects_of(np.array([1, 2], dtype=np.float32), "s", "r") == ("1", "2")
    single = np.array([1, 123456789], dtype=np.float32)
    refused = [Decimal("sNaN"), Decimal("-Infinity"), 10**1000, 10**5000, Decimal("1e1000"), Decimal("1e999999999"), single[1]]
    for value in [*refused, np.array(single[1]), np.float16(2**11), np.float32("nan")]:
        with pytest.raises(InputError, match="row 1: 'example_id'"):
            parse_records([{"text": "x", "example_id": value}], Fields(), "people")
    with pytest.raises(InputError, match="row 1: 'subject_id' is a floating-point number"):
        parse_records([{"text": "x", "subject_id": single}], Fields(), "people")
