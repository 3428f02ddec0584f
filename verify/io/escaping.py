"""Escaping of untrusted text for pages, terminals and letters."""

import unicodedata


def visible(text: str) -> str:
    """Replace control, format, private-use, surrogate and line-separator characters by their code, as in <U+202E>."""
    return "".join(
        f"<U+{ord(character):04X}>" if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") else character
        for character in text
    )
