"""Result files that several benchmarks share, each with a section of its own."""


def with_section(text: str, title: str, section: str) -> str:
    """Replace the section of this title in a text, or append it; other sections stay as they are.

    Args:
        text: content of the file.
        title: the section's first line, "# ...".
        section: the new section, title included.
    """
    before, _, after = f"\n{text}".partition(f"\n{title}\n")
    rest = f"\n{after}".partition("\n# ")[2]
    parts = [before.strip("\n"), section.strip("\n"), f"# {rest}".strip("\n") if rest else ""]
    return "\n\n".join(part for part in parts if part) + "\n"
