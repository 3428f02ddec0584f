"""Canonical form of personal identifiers: spellings that a standard defines as equal become one string.

Two identifiers are the same if and only if their canonical forms are equal, so sameness is an equivalence relation by construction.

    any text      canonical equivalence (NFC, UAX #15), white-space runs as one space, default ignorable characters removed
    mail address  RFC 5322 and 6531 (email-validator), domain as UTS #46 A-labels (idna), lower case; no mailto: or display name
    telephone     E.164 where the country code is given (phonenumbers)
    web address   RFC 3986, sections 6.2.2 and 6.2.3, with the host as a domain above

Mail servers may distinguish case in a local part, but none in use does, so case is ignored. Differences that no standard removes
(accents, case of names, plus-addressing, national telephone numbers) are kept; `verify.data.likeness` finds such spellings for a
human to decide.
"""

import re
import unicodedata
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

import idna
import phonenumbers
from email_validator import EmailNotValidError, validate_email

FORM_VERSION = 2
"""Version of the canonical form used for keyed hashes; version 1 (release 0.1.0) only removed surrounding white space."""

IGNORED = dict.fromkeys(
    [
        *(0x00AD, 0x034F, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064, 0xFEFF),
        *range(0x202A, 0x202F),  # bidirectional embeddings and overrides
        *range(0x2066, 0x2070),  # bidirectional isolates
        *range(0xFE00, 0xFE10),  # variation selectors
    ]
)
"""Default ignorable code points (DerivedCoreProperties.txt) that do not distinguish words, as the joiners U+200C and U+200D do."""

_PLAIN = re.compile(r"[A-Za-z0-9]+(?:[ ._-][A-Za-z0-9]+)*")
_ATOM = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+"
_PLAIN_MAIL = re.compile(rf"{_ATOM}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_DOT_ATOM = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+")  # RFC 6532 adds all of Unicode to the letters of RFC 5322
_BRACKETED = re.compile(r"[^<>]*<([^<>]+@[^<>]+)>")
_MAILTO = re.compile(r"(?:mailto:)+", re.IGNORECASE | re.ASCII)
_MAIL_SHAPE = re.compile(r'(?:[^@\s"<>]+|"[^"]*")@[^@\s<>]+')
_MAIL_IN_TEXT = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)*")
_TELEPHONE = re.compile(r"(?:tel:)? ?\+[0-9 ().\-\u2010-\u2015/]+(?:(?:;ext=| ?(?:ext\.?|x|#) ?)[0-9]{1,7})?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def canonical(identifier: str) -> str:
    """Return the canonical form of an identifier. Idempotent; empty for one without visible characters."""
    if _PLAIN.fullmatch(identifier):  # most identifiers: one match, without the standards' tables
        return identifier
    if _PLAIN_MAIL.fullmatch(identifier) and "xn--" not in (mail := identifier.lower()):
        return mail
    text = clean(identifier)
    for form in (_web_address, _mail_address, _telephone):
        if (found := form(text)) is not None:
            return found
    return text


def same(one: str, other: str) -> bool:
    """Return whether two spellings have the same canonical form."""
    return canonical(one) == canonical(other)


def clean(text: str) -> str:
    """Normalise a text: NFC, no default ignorable characters, single spaces for runs of white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(IGNORED))
    return " ".join(text.split())


def with_canonical_mails(text: str) -> str:
    """Return a free text with every mail address in its canonical form."""
    return _MAIL_IN_TEXT.sub(lambda found: canonical(found[0]), text) if "@" in text else text


def is_mail(canonical_form: str) -> bool:
    """Return whether a canonical form is that of a mail address."""
    return "@" in canonical_form and _MAIL_SHAPE.fullmatch(canonical_form) is not None


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())


def _mail_address(text: str) -> str | None:
    """Return the canonical form of a mail address; None for other texts."""
    if "@" not in text:
        return None
    named = _BRACKETED.fullmatch(text)
    address = named[1].strip() if named else text
    while scheme := _MAILTO.match(address):  # RFC 6068: percent-encoded, header fields after the question mark
        address = clean(unquote(address[scheme.end() :].partition("?")[0]))
    if address != text and (web := _web_address(address)) is not None:
        return web
    local, _, domain = address.rpartition("@")
    if _DOT_ATOM.fullmatch(local) and domain and not set(domain) & set(' <>"'):
        return f"{_lower(local)}@{host(domain)}"
    try:
        found = validate_email(
            f"{local}@{domain.rstrip('.')}",
            check_deliverability=False,
            allow_quoted_local=True,
            allow_domain_literal=True,
            globally_deliverable=False,
        )
        local, domain = found.local_part, found.ascii_domain
    except EmailNotValidError:
        # Invalid, but such strings occur in data: a text of the shape of an address is compared as one.
        if not _MAIL_SHAPE.fullmatch(address):
            return None
    return f"{_lower(local)}@{host(domain)}"


@lru_cache(maxsize=1 << 14)
def host(domain: str) -> str:
    """Return a domain name as lower-case A-labels without the root's dot (UTS #46); only in lower case if IDNA rejects it."""
    if domain.startswith("["):
        return domain.lower()
    try:
        return idna.encode(domain.rstrip("."), uts46=True).decode("ascii").lower().rstrip(".")
    except UnicodeError:  # the base class of idna.IDNAError
        return _lower(domain).rstrip(".")


def _web_address(text: str) -> str | None:
    """Return the canonical form of a web address with a scheme; None for other texts."""
    if "://" not in text or " " in text:
        return None
    try:
        parts = urlsplit(text)
        name, port = parts.hostname, parts.port
        rest = _escaped(parts.path or "/") + (f"?{_escaped(parts.query)}" if parts.query else "")
        rest += f"#{_escaped(parts.fragment)}" if parts.fragment else ""
    except (ValueError, UnicodeError):
        return None
    if not parts.scheme or not name:
        return None
    domain = f"[{name}]" if ":" in name else host(name)  # a colon: an IPv6 address
    user = parts.netloc.rpartition("@")[0]
    shown_port = "" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}"
    return f"{parts.scheme}://{user}{'@' if user else ''}{domain}{shown_port}{rest}"


def _escaped(part: str) -> str:
    """Return a part of a web address with upper-case escapes, only where needed; unchanged if it has a malformed escape."""
    if _BROKEN_ESCAPE.search(part):
        return part
    encoded = quote(part, safe="%/:?#[]@!$&'()*+,;=~")
    return _ESCAPE.sub(lambda found: _unescaped(found[1]), encoded)


def _unescaped(digits: str) -> str:
    character = chr(int(digits, 16))
    return character if character in _UNRESERVED else f"%{digits.upper()}"


def _telephone(text: str) -> str | None:
    """Return a telephone number in E.164, with extension; None without a country code, as the country is then unknown."""
    if "+" not in text or not _TELEPHONE.fullmatch(text):
        return None
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return f"{written};ext={number.extension}" if number.extension else written
