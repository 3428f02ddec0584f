"""Names of which mail addresses are made: a request by `nora.velt@example.org` alone proposes the texts about Nora Velt."""

from verify.data.canonical import canonical, is_mail
from verify.data.likeness import SHORTEST_MENTION, foldings, humps_apart, rearranged, words_of

_OFFICES = frozenset(
    words_of(
        "admin and atencion accueil billing buero clientes commercial contact contacto customer customers data datenschutz desk "
        "equipe facturation hello help hr info jobs kontakt kunden kundenservice mail mailer news newsletter no noreply not office "
        "presse press privacy protection rechnung reply sales service services support team test the user ventas vertrieb"
    )
)
"""Words of addresses that are an office's or a program's, folded: they name nobody."""
_FEWEST_LETTERS = 2


def names_in_address(identifier: str) -> frozenset[tuple[str, ...]]:
    """Return the word sequences by which a folded text has the name that a mail address is made of, as `nora.velt@example.org` is.

    None where the local part is not two words and more, or is an office's: `customer.service`.
    """
    text = canonical(identifier)
    if not is_mail(text):
        return frozenset()
    own = text.rpartition("@")[0].partition("+")[0]
    runs = {tuple(word for word in words_of(form) if not word.isdigit()) for form in foldings(humps_apart(own))}
    named = {run for run in runs if len(run) > 1 and all(word.isalpha() and len(word) >= _FEWEST_LETTERS for word in run)}
    named = {run for run in named if _OFFICES.isdisjoint(run) and sum(map(len, run)) >= SHORTEST_MENTION}
    return frozenset(named | {other for run in named for other in rearranged(run)})
