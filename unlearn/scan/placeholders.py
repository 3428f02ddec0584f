"""Placeholders: values that stand in place of a person's name or number and identify no one.

A row of a requested person with the name `Guest User` would otherwise link that person with every guest. Recognized are values made
of words of a published list alone, in English, German, French, Spanish, Italian, Dutch and Portuguese, names of the form John Doe,
and numbers of one digit or of the digits in their order. What is beside more than `MOST_SHARED` other identifiers is found in
the data.
"""

from verify.data.canonical import canonical, is_mail
from verify.data.likeness import foldings, words_of

_WORDS = frozenset(
    words_of(
        "admin administrator anonymous anon available any client contact customer default deleted demo dummy empty "
        "employee example first full given guest last member missing my n a na name new nil no nobody none noreply not "
        "null of only other owner patient person reply removed sample someone surname system tbd temp test tester the "
        "to unassigned undefined unknown unnamed user value visitor xxx your do donotreply anonym anonymer angabe "
        "benutzer beispiel ein eine gast geloescht geloeschter geloschter keine kein kunde kundin mitarbeiter "
        "mustername muster nachname nicht vorhanden ohne testkunde unbekannt unbekannte unbekannter vorname anonyme "
        "inconnu inconnue invite nom non prenom renseigne sans utilisateur aucun exemple supprime anonimo anonima "
        "apellido apellidos cliente desconocida desconocido disponible ejemplo eliminado invitado nombre prueba sin "
        "usuario cognome nome ospite sconosciuto utente prova ignoto cancellato anoniem gebruiker klant naam onbekend "
        "voorbeeld achternaam voornaam verwijderd geen convidado desconhecido exemplo nenhum sem sobrenome teste"
    )
)
"""Words, folded; a value of these alone is a placeholder."""
_NAMES = frozenset(
    {"doe john", "doe jane", "max mustermann", "erika mustermann", "erika musterfrau", "mustermann", "bloggs joe", "john public"}
    | {"fulano tal", "de fulano tal", "pallino pinco", "jan modaal", "bar foo"}
)
"""Names that stand for any name, their words sorted."""
_SHORTEST = 7
"""Fewest digits in their order that make a placeholder; a customer may well have the number 12345."""
MOST_SHARED = 50
"""Largest number of different identifiers beside a value that is linked to a person; one beside more identifies no one."""
_DIGITS = "01234567890123456789"
_BACKWARDS = _DIGITS[::-1]


def is_placeholder(value: str) -> bool:
    """Return whether a value identifies no one, by its words or digits."""
    form = canonical(value)
    own = form.rpartition("@")[0].partition("+")[0] if is_mail(form) else form
    digits = "".join(filter(str.isdigit, own))
    if digits and not any(map(str.isalpha, own)):
        return len(set(digits)) == 1 or (len(digits) >= _SHORTEST and (digits in _DIGITS or digits in _BACKWARDS))
    words = sorted(words_of(foldings(own)[0]))
    return _WORDS.issuperset(words) or " ".join(words) in _NAMES


def said_of_unused(number: int) -> str:
    """Say that values were not used for linking."""
    those, were = ("1 value that stands", "was") if number == 1 else (f"{number} values that stand", "were")
    return (
        f"{those} beside the requested identifiers {were} not used to find more rows: placeholders (Guest User, John Doe, ...), "
        f"or beside more than {MOST_SHARED} other identifiers. If one is how this person is called, give it as an identifier, too."
    )
