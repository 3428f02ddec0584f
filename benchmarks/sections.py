"""Files of results that several benchmarks write into, each its own section."""


def with_section(text: str, title: str, section: str) -> str:
    """The text with a section in place of the former one of its title, or at the end; other sections stay as they are.

    Args:
        text: what the file holds.
        title: the section's first line, "# ...".
        section: the new section, title included.
    """
    before, _, after = f"\n{text}".partition(f"\n{title}\n")
    rest = f"\n{after}".partition("\n# ")[2]
    parts = [before.strip("\n"), section.strip("\n"), f"# {rest}".strip("\n") if rest else ""]
    return "\n\n".join(part for part in parts if part) + "\n"
