"""Text matching for extraction: compare passages without regard to case and spacing."""

import re
from collections.abc import Sequence

from verify.data.records import Record

PERSONAL = re.compile(
    r"""
    [\w.+-]+@[\w-]+(?:\.[\w-]+)+                 # an e-mail address
    | \+?\d[\d\s().\-/]{5,}\d                     # telephone, card, account and other long numbers; dates in digits
    | \b[A-Z]{2}\d{2}(?:\s?[A-Z0-9]{4}){2,7}\b    # an IBAN
    | \b(?:[A-Z][\w'-]+\s){1,3}[A-Z][\w'-]+\b     # a person's or town's name of two to four words
    """,
    re.VERBOSE,
)


def normalized(text: str) -> str:
    """Fold a text to lower case and collapse every run of white space to one space."""
    return " ".join(text.casefold().split())


def find_personal_data(text: str) -> list[str]:
    """Find spans that look like personal data: mail addresses, long numbers and dates, IBANs, names of several words.

    A regular-expression detector without a model, for records that name no secret. Pass a better one to the attack if you have
    one.
    """
    return [match.group().strip() for match in PERSONAL.finditer(text)]


def secret_of(record: Record) -> str:
    """Return the passage to extract: the secret where the record names one, else all of its scored text."""
    return record.secret if record.secret else record.scored_text


def comes_out(made: Sequence[str], passage: str) -> list[bool]:
    """Return whether each text contains the passage, up to case and spacing; an empty passage is in none."""
    wanted = normalized(passage)
    return [bool(wanted) and wanted in normalized(text) for text in made]
