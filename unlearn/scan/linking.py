"""Further identifiers of a requested person: what stands beside the requested one in the same row.

A row with a customer number, a name and a mail address shows how else the person is called; other files may hold only the name.
What is linked so is searched for as well, and everything found by it is a proposal. Linked are only columns that by name hold
names, addresses, telephone numbers or accounts of people, within one object, and only values that may identify one person: a first
name alone links nobody. A row about several people says not whose name is whose, so its subjects are not linked. Where columns of
one object name several, a customer and an employee for instance, each is linked with what is theirs by the names of the columns.
In a text only a mailbox links, as mails write it: `Nora Velt <nora@example.org>` (RFC 5322, 3.4).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unlearn.scan.name_columns import folded, full_names, objects_in, texts_of
from verify.data.canonical import canonical, is_mail
from verify.data.likeness import SHORTEST_MENTION, foldings, is_full_name, words_of
from verify.data.records import Fields, Record

_OF = (
    "",
    "user",
    "person",
    "customer",
    "client",
    "patient",
    "member",
    "employee",
    "contact",
    "owner",
    "subject",
    "account",
    "author",
)
_KINDS = (
    *("name", "fullname", "displayname", "realname", "legalname", "screenname", "nickname", "nick", "alias", "handle", "login"),
    *("email", "emailaddress", "mail", "mailaddress", "phone", "phonenumber", "telephone", "telephonenumber", "tel", "mobile"),
    *("mobilephone", "mobilenumber", "cellphone", "id", "number", "no"),
)
_OTHERS = (
    *("nom", "nomcomplet", "nombrecompleto", "courriel", "correo", "correoelectronico", "telefono", "telefon", "telefonnummer"),
    *("handy", "handynummer", "emailadresse", "mailadresse", "kundenname", "kundennummer", "kundennr", "benutzername", "patient"),
    *("customer", "client", "person", "user", "username", "member", "employee", "author", "owner", "contact"),
)
_ROLES = (
    dict.fromkeys(_OTHERS, "")
    | dict.fromkeys(("kundenname", "kundennummer", "kundennr"), "customer")
    | {f"{whose}{kind}": whose for whose in _OF for kind in _KINDS}
    | {whose: whose for whose in _OF if whose in _OTHERS}
    | {"benutzername": "user"}
)
_COLUMNS = {column: role for column, role in _ROLES.items() if column not in ("id", "number", "no")}
"""Columns that hold a name, an address, a telephone number or an account of a person, and whose, where they say so: by their names,
folded and without separators."""
_COUNTERPARTS = frozenset({"employee", "contact", "owner", "author"})
"""Roles of those who stand beside the person that a row is about, where it names several."""
_INVENTED = ("displayname", "screenname", "nickname", "nick", "alias", "handle", "login")
"""Ends of columns whose values may have no word of the person's name."""
_MAILBOX = re.compile(r"<([^<>\s@]{1,64}@[^<>\s@]{1,255})>")
_BEFORE = re.compile(r"[\":;,()|<>\t\r\n\[\]{}]")
"""What ends the text before a name that is not in quotation marks."""
_LONGEST_NAME, _MOST_WORDS = 60, 4
_SMALL = frozenset(
    ["al", "bin", "da", "de", "del", "della", "den", "der", "di", "do", "dos", "du", "el", "la", "le", "van", "von", "zu"]
)
"""Words of names in small letters."""
_SHORTEST_ACCOUNT = 3
_SHORTEST_TELEPHONE = 7


def identifiers_by_person(row: Mapping[str, Any], record: Record, fields: Fields) -> Iterator[tuple[str, ...]]:
    """Yield the identifiers in a row that belong together: of the row itself, with its subject if it has one, and of every object.

    Only groups of two and more are yielded.
    """
    own = record.subjects if len(record.subjects) == 1 else ()
    columns = {name: value for name, value in row.items() if name not in (fields.subject, fields.id)}
    groups = _of_subject(tuple(own), _held(columns), _COLUMNS.get(folded(fields.subject)))
    nested = (tuple(texts) for one in objects_in(columns.values()) for texts in _held(one).values())
    written = (found for text in record.all_texts for found in mailboxes(text))
    for group in (*groups, *nested, *written):
        if len(found := tuple(filter(None, dict.fromkeys(group)))) > 1:
            yield found


def mailboxes(text: str) -> Iterator[tuple[str, ...]]:
    """Yield address and name of every mailbox in a text; the name also as its last two words: one before may be no part of it."""
    for found in _MAILBOX.finditer(text) if "@" in text and "<" in text else ():
        before = text[max(0, found.start() - _LONGEST_NAME) : found.start()].rstrip(" ")
        if before.endswith(('"', "'")):
            yield (found[1], before[:-1].rpartition(before[-1])[2].strip())
            continue
        words = _BEFORE.split(before)[-1].split()[-_MOST_WORDS:]
        others = [place for place, word in enumerate(words, 1) if not (word[0].isupper() or word.lower() in _SMALL)]
        words = words[max(others, default=0) :]
        while words and words[0].lower() in _SMALL:
            words = words[1:]
        yield (found[1], " ".join(words), " ".join(words[-2:]))


def _of_subject(own: tuple[str, ...], held: Mapping[str, Sequence[str]], role: str | None) -> Iterator[tuple[str, ...]]:
    """Yield what a row holds of each person, with its subject where that is the same person: by role, or as it is for no other."""
    if not held:
        return
    same = {role} if role in held else held.keys() - _COUNTERPARTS if len(held) > 1 else held.keys()
    yield from ((*(own if whose in same else ()), *texts) for whose, texts in held.items())


def identifies(identifier: str) -> bool:
    """Return whether a value may identify one person: an address, a telephone number, an account, or a name of two words."""
    form = canonical(identifier)
    digits = sum(map(str.isdigit, form))
    if is_mail(form):
        return True
    if not any(map(str.isalpha, form)):
        return digits >= (SHORTEST_MENTION if form.isdigit() else _SHORTEST_TELEPHONE)
    return is_full_name(form) or (digits > 0 and len(form) >= _SHORTEST_ACCOUNT and " " not in form)


def _held(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what the columns of one object hold that by their names are about a person, first and last name as one.

    It is by role where two of the names have no word in common, as of a customer and an employee; else it is one person's. A list
    of such names in one column is of several people, and left out.
    """
    held: dict[str, list[str]] = {}
    names: list[frozenset[str]] = []
    for column, value in ((folded(str(name)), value) for name, value in row.items()):
        if (role := _COLUMNS.get(column)) is not None:
            texts = list(texts_of(value))
            full = [] if column.endswith(_INVENTED) else [found for text in texts if (found := _name(text))]
            if texts and not (len(texts) > 1 and _differ(full)):
                names += full
                held.setdefault(role, []).extend(texts)
    for whose, name in full_names(row):
        if whose in _OF:
            names += filter(None, (_name(name),))
            held.setdefault(whose, []).append(name)
    return held if len(held) < 2 or _differ(names) else {"": [text for texts in held.values() for text in texts]}


def _name(text: str) -> frozenset[str]:
    """Return the words of a name that is written as several; empty for another value."""
    words = text.split()
    return frozenset(words_of(foldings(text)[0])) if len(words) > 1 and not is_mail(text) and is_full_name(text) else frozenset()


def _differ(names: Sequence[frozenset[str]]) -> bool:
    """Return whether names are of several people: one has no word in common with the first."""
    return any(names[0].isdisjoint(other) for other in names[1:])
