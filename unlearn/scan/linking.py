"""Further identifiers of a requested person: what stands beside the requested one in the same row.

A row with a customer number, a name and a mail address shows how else the person is called; other files may hold only the name.
What is linked so is searched for as well, and everything found by it is a proposal. Linked are only columns that by name hold
names, addresses, telephone numbers or accounts of people, within one object, and only values that may identify one person: a first
name alone links nobody. A row about several people says not whose name is whose, so its subjects are not linked.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from verify.data.canonical import canonical, is_mail
from verify.data.likeness import SHORTEST_MENTION, foldings, is_full_name
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
_GIVEN = frozenset({"firstname", "givenname", "forename", "vorname", "prenom", "nombre"})
_FAMILY = frozenset({"lastname", "surname", "familyname", "nachname", "familienname", "nomdefamille", "apellido", "apellidos"})
_FAMILY_BESIDE_GIVEN = frozenset({"nom", "name"})
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
_COLUMNS = ({f"{whose}{kind}" for whose in _OF for kind in _KINDS} | set(_OTHERS)) - {"id", "number", "no"}
"""Names of columns, folded and without separators, that hold a name, an address, a telephone number or an account of a person."""
_SHORTEST_ACCOUNT = 3
_SHORTEST_TELEPHONE = 7


def identifiers_by_person(row: Mapping[str, Any], record: Record, fields: Fields) -> Iterator[tuple[str, ...]]:
    """Yield the identifiers in a row that belong together: of the row itself, with its subject if it has one, and of every object.

    Only groups of two and more are yielded.
    """
    own = [*(record.subjects if len(record.subjects) == 1 else ())]
    columns = {name: value for name, value in row.items() if name not in (fields.subject, fields.id)}
    for group in ((*own, *_held(columns)), *map(tuple, map(_held, _objects(list(columns.values()))))):
        if len(found := tuple(dict.fromkeys(group))) > 1:
            yield found


def identifies(identifier: str) -> bool:
    """Return whether a value may identify one person: an address, a telephone number, an account, or a name of two words."""
    form = canonical(identifier)
    digits = sum(map(str.isdigit, form))
    if is_mail(form):
        return True
    if not any(map(str.isalpha, form)):
        return digits >= (SHORTEST_MENTION if form.isdigit() else _SHORTEST_TELEPHONE)
    return is_full_name(form) or (digits > 0 and len(form) >= _SHORTEST_ACCOUNT and " " not in form)


def _held(row: Mapping[str, Any]) -> list[str]:
    """Return what the columns of one object hold that by their names are about a person, first and last name as one."""
    named = {_folded(str(name)): value for name, value in row.items()}
    found = [text for name, value in named.items() if name in _COLUMNS for text in _texts(value)]
    given = [text for name in _GIVEN & named.keys() for text in _texts(named[name])]
    family = [text for name in (_FAMILY | _FAMILY_BESIDE_GIVEN) & named.keys() for text in _texts(named[name])]
    return found + [f"{first} {last}" for first in given for last in family]


@lru_cache(maxsize=1 << 12)
def _folded(name: str) -> str:
    return "".join(letter for letter in foldings(name)[0] if letter.isalnum())


def _texts(value: Any) -> Iterator[str]:
    """Yield a text or number, or those of a list."""
    if isinstance(value, str):
        yield from filter(None, (value.strip(),))
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry) if not isinstance(entry, list | tuple) else ()


def _objects(values: list[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield all objects among some values, at any depth."""
    while values:
        value = values.pop()
        if isinstance(value, Mapping):
            yield value
            values += value.values()
        elif isinstance(value, list | tuple):
            values += value
