"""Text from outside, made harmless for whoever reads it: on a page, on a terminal, in a letter."""

import unicodedata


def visible(text: str) -> str:
    """Replace control, format and direction characters by their code, so that what is read is what is there."""
    return "".join(
        f"<U+{ord(character):04X}>" if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") else character
        for character in text
    )
