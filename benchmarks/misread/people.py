"""Spellings of one person (case 3): equivalent by a standard, possibly the same, or another person."""

import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from benchmarks.misread.judging import Family, Member
from benchmarks.misread.world import Bench, Shown, command, rows, write_lines

FIRST = ("Ines", "Zoë", "René", "Jürgen", "Ana María", "Søren", "Łukasz", "Noël")
LAST = ("Kolb", "Müller", "O'Dell", "Ångström", "Peña", "Straßer", "Dvořák", "Núñez")
DOMAINS = ("example.org", "bücher.example", "mañana.example", "stuttgart-käse.example")
Pair = tuple[str, str, str]
"""What differs, how the data spell a person, how a request does."""


def mail(draw: Random, domain: str | None = None) -> str:
    """An address with a lower-case local part."""
    letters = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
    return f"{letters}.{draw.choice(['kolb', 'ito', 'reyes'])}@{domain or draw.choice(DOMAINS[:1])}"


def name(draw: Random) -> str:
    return f"{draw.choice(FIRST)} {draw.choice(LAST)}"


def idna(address: str) -> str:
    """The address with its domain in ASCII."""
    local, _, domain = address.partition("@")
    return f"{local}@" + ".".join(f"xn--{p.encode('punycode').decode()}" if not p.isascii() else p for p in domain.split("."))


def same_case(draw: Random) -> Iterable[Pair]:
    for number in range(4):
        one = mail(draw)
        local, _, domain = one.partition("@")
        other = [one.upper(), f"{local}@{domain.upper()}", f"{local.title()}@{domain.title()}", f"<{one}>"[1:-1].swapcase()][number]
        yield "case of an address", *((one, other) if number % 2 else (other, one))


def same_domain(draw: Random) -> Iterable[Pair]:
    for number, domain in enumerate(DOMAINS[1:]):
        one = mail(draw, domain)
        yield "international domain", *((one, idna(one)) if number % 2 else (idna(one), one))
        yield "international domain in capitals", one.upper(), idna(one)
    one = mail(draw, DOMAINS[1])
    yield "domain in decomposed letters", unicodedata.normalize("NFD", one), idna(one)


def same_letters(draw: Random) -> Iterable[Pair]:
    for _ in range(3):
        one = name(draw) + draw.choice([" é", " ü", " ñ"])
        yield "composed and decomposed", unicodedata.normalize("NFC", one), unicodedata.normalize("NFD", one)
        yield "decomposed and composed", unicodedata.normalize("NFD", one), unicodedata.normalize("NFC", one)
    yield "the sign for Angstrom", "\u212bke Holm", "\u00c5ke Holm"
    yield "order of marks", "a\u0323\u0302b", "a\u0302\u0323b"


def same_space(draw: Random) -> Iterable[Pair]:
    for what, space in {"two spaces": "  ", "a tab": "\t", "a no-break space": "\u00a0", "a narrow one": "\u202f"}.items():
        one = name(draw)
        yield what, one.replace(" ", space), one
        yield f"{what} in the request", one, one.replace(" ", space)
    one = name(draw)
    yield "space around", f"  {one} \u00a0", one


def perhaps_plus(draw: Random) -> Iterable[Pair]:
    for tag in ("news", "shop2026", "x"):
        one = mail(draw)
        tagged = one.replace("@", f"+{tag}@")
        yield "plus-addressing in the data", tagged, one
        yield "plus-addressing in the request", one, tagged


def perhaps_marks(_: Random) -> Iterable[Pair]:
    for mark in ("\u2019", "\u02bc", "\u00b4", "`"):
        yield f"apostrophe {ord(mark):04x}", f"Tam O{mark}Dell", "Tam O'Dell"
    yield "apostrophe in the request", "Tam O'Dell", "Tam O\u2019Dell"
    yield "a hyphen that does not break", "Anne\u2011Marie Kolb", "Anne-Marie Kolb"


def perhaps_accents(_: Random) -> Iterable[Pair]:
    for one in ("René Núñez", "Zoë Dvořák", "Jürgen Müller", "Ana María Peña"):
        bare = "".join(letter for letter in unicodedata.normalize("NFD", one) if not unicodedata.combining(letter))
        yield "accents missing in the request", one, bare
        yield "accents missing in the data", bare, one


def perhaps_phones(draw: Random) -> Iterable[Pair]:
    national = f"151 5550 {draw.randrange(1000, 9999)}"
    one = f"+49 {national}"
    digits = national.replace(" ", "")
    for what, other in {
        "no spaces": f"+49{digits}",
        "hyphens": one.replace(" ", "-"),
        "parentheses": f"+49 ({digits[:3]}) {digits[3:]}",
        "two zeros": f"0049 {national}",
        "no-break spaces": one.replace(" ", "\u00a0"),
    }.items():
        yield f"telephone: {what}", one, other
        yield f"telephone: {what}, in the data", other, one


def perhaps_numbers(draw: Random) -> Iterable[Pair]:
    number = str(draw.randrange(1000, 10**6))
    yield "a fraction of zero", number, f"{number}.0"
    yield "a fraction of zero in the data", f"{number}.0", number
    yield "leading zeros", number, f"00{number}"
    yield "leading zeros in the data", f"00{number}", number


def perhaps_prefix(draw: Random) -> Iterable[Pair]:
    one = mail(draw)
    yield "mailto:", one, f"mailto:{one}"
    yield "angle brackets", one, f"Ines Kolb <{one}>"
    yield "case of a name", "Ines Kolb", "ines kolb"


def others(draw: Random) -> Iterable[Pair]:
    one, number = mail(draw), str(draw.randrange(1000, 9999))
    yield "another domain", one, one.replace("example.org", "example.net")
    yield "another local part", one, f"x{one}"
    yield "another number", number, str(int(number) + 1)
    yield "a longer number", number, f"{number}1"
    yield "another telephone", "+49 151 5550 0199", "+49 151 5550 0198"
    yield "another country", "+49 151 5550 0199", "+43 699 1234 5678"
    yield "another person", "Ines Kolb", "Otto Reyes"


def certain(found: Shown) -> bool:
    return found.status == 0 and found.names_row(2)


def proposed(found: Shown) -> bool:
    return found.names_row(2)


def nobody(found: Shown) -> bool:
    return found.status == 3 and not found.names_row(2)


def scanned(pairs: Callable[[Random], Iterable[Pair]], right: Callable[[Shown], bool]) -> Callable[[Bench], Iterable[Member]]:
    """A request in one spelling is searched in data with another; the person's record is row 2."""

    def members(at: Bench) -> Iterable[Member]:
        for number, (what, data, asked) in enumerate(pairs(at.draw)):
            path = write_lines(at.folder / f"{number}.jsonl", [rows(1)[0], rows(2, "someone")[1] | {"subject_id": data}])
            yield Member(
                what,
                lambda path=path, asked=asked: command(
                    "unlearn", "scan", "--data", str(path), "--subjects", "-", stdin=f"{asked}\n"
                ),
                right,
            )

    return members


def checked(pairs: Callable[[Random], Iterable[Pair]], right: Callable[[Shown], bool]) -> Callable[[Bench], Iterable[Member]]:
    """A person is suppressed in one spelling, and comes back in another with another text, as row 2."""

    def members(at: Bench) -> Iterable[Member]:
        for number, (what, data, asked) in enumerate(pairs(at.draw)):
            gone = write_lines(at.folder / f"gone-{number}.jsonl", [rows(1, "gone")[0] | {"subject_id": data}])
            fresh = write_lines(at.folder / f"{number}.jsonl", [rows(1)[0], rows(9, "someone")[8] | {"subject_id": asked}])
            listed = str(at.folder / f"list-{number}.jsonl")

            def attempt(gone: Path = gone, fresh: Path = fresh, listed: str = listed) -> Shown:
                command("unlearn", "suppress", str(gone), "--suppression", listed)
                return command("unlearn", "check-dataset", str(fresh), "--suppression", listed)

            yield Member(what, attempt, right)

    return members


def not_found(at: Bench) -> Iterable[Member]:
    """A plan does not silently call a request `not_found` if the data spell its person differently."""
    for number, pairs in enumerate((same_case, same_space, same_letters, perhaps_plus, perhaps_accents, perhaps_phones)):
        what, data, asked = next(iter(pairs(at.draw)))
        path = write_lines(at.folder / f"{number}.jsonl", [rows(1)[0], rows(2, "someone")[1] | {"subject_id": data}])
        ledger, output = str(at.folder / f"{number}.db"), str(at.folder / f"deletions-{number}")

        def attempt(path: Path = path, asked: str = asked, ledger: str = ledger, output: str = output) -> tuple[str, Shown]:
            given = command("unlearn", "request", "add", "--ledger", ledger, stdin=f"{asked}\n").text.split()[-1]
            command("unlearn", "request", "approve", given, "--ledger", ledger)
            flags = ["--data", str(path), "--models", str(path.parent), "--output", output, "--ledger", ledger]
            try:
                planned = command("unlearn", "request", "plan", *flags)
            finally:
                state = command("unlearn", "request", "list", "--ledger", ledger).text
            return state, planned

        yield Member(what, attempt, lambda found: "not_found" not in found[0] and found[1].names_row(2), r"\b2\b|saw the records")


def by_identifier(at: Bench) -> Iterable[Member]:
    """A forget list in another spelling than the training file: the record is chosen, or the entry is named as unknown."""
    from verify.data.sources import load_forget_set, load_records

    for pairs in (same_case, same_domain, same_letters, same_space, perhaps_plus, perhaps_phones, others):
        what, data, asked = next(iter(pairs(at.draw)))
        training = load_records([rows(1)[0], rows(2, "someone")[1] | {"subject_id": data}])

        def chosen(training: list[object] = training, asked: str = asked) -> list[object]:  # type: ignore[assignment]
            return list(load_forget_set([asked], training))  # type: ignore[arg-type]

        yield Member(what, chosen, lambda found, want=training[1:]: found == want, "occur nowhere", (data, asked))


FAMILIES = (
    Family(3, "search: case of mail addresses", scanned(same_case, certain)),
    Family(3, "search: international domains", scanned(same_domain, certain)),
    Family(3, "search: canonically equal letters", scanned(same_letters, certain)),
    Family(3, "search: white space", scanned(same_space, certain)),
    Family(3, "search: plus-addressing is proposed", scanned(perhaps_plus, proposed)),
    Family(3, "search: typographic marks are proposed", scanned(perhaps_marks, proposed)),
    Family(3, "search: missing accents are proposed", scanned(perhaps_accents, proposed)),
    Family(3, "search: telephone numbers are proposed", scanned(perhaps_phones, proposed)),
    Family(3, "search: numbers in another form are proposed", scanned(perhaps_numbers, proposed)),
    Family(3, "search: another person is nobody", scanned(others, nobody)),
    Family(
        3,
        "suppression: case of mail addresses",
        checked(same_case, certain_row := lambda found: found.status == 3 and found.names_row(2)),
    ),
    Family(3, "suppression: international domains", checked(same_domain, certain_row), quick=1),
    Family(3, "suppression: canonically equal letters", checked(same_letters, certain_row), quick=1),
    Family(3, "suppression: white space", checked(same_space, certain_row), quick=1),
    Family(
        3,
        "suppression: perhaps the same is shown",
        checked(lambda draw: [*perhaps_plus(draw), *perhaps_marks(draw), *perhaps_phones(draw)], proposed),
        quick=1,
    ),
    Family(
        3,
        "suppression: another person passes",
        checked(others, lambda found: found.status == 0 and not found.names_row(2)),
        quick=1,
    ),
    Family(3, "a request's plan before it says not found", not_found, quick=0),
    Family(3, "a forget list in another spelling", by_identifier, quick=3),
)
