"""Escaping of untrusted text for pages, terminals and letters."""

import unicodedata


def visible(text: str) -> str:
    """Replace control, format and direction characters by their code, so that the reader sees what is there."""
    return "".join(
        f"<U+{ord(character):04X}>" if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") else character
        for character in text
    )
