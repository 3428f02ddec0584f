"""Documents that do not match their schema: the message names the field, never what stands in the file."""

from typing import ClassVar, Literal

import pytest
from pydantic import Field

from verify.errors import InputError
from verify.io.documents import Document, Frozen


class Part(Frozen):
    """A part with a free name."""

    counts: dict[str, int]


class Whole(Document):
    """A document with parts."""

    called: ClassVar[str] = "document"
    remedy: ClassVar[str] = "Write it again."
    kind: Literal["whole"] = Field(default="whole", alias="schema")
    parts: tuple[Part, ...]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"parts": [{"counts": {"Zebedee": "x"}}]}', "parts.0.counts....: Input should be a valid integer"),
        ('{"parts": [{"counts": {}, "Zebedee": 1}]}', "parts.0: it has a field that the schema does not name"),
        ('{"schema": "Zebedee", "parts": []}', "schema: Input should be 'whole'"),
        ("[]", "the whole: "),
    ],
)
def test_names_that_the_schema_does_not_know_are_not_repeated(content: str, said: str) -> None:
    """Neither unknown fields nor the free names of an object, which may be a person's."""
    with pytest.raises(InputError) as raised:
        Whole.parse(content, "file.json")
    assert said in str(raised.value)
    assert "Zebedee" not in str(raised.value)
