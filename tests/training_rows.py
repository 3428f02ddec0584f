"""Records to train on, whose words occur nowhere else."""

NAMES = ["Zebedee", "Quillon", "Marisol", "Oberon", "Tamsin", "Ivor", "Petronella", "Lysander"]


def make_rows(prefix: str, count: int) -> list[dict[str, str]]:
    """Records whose words occur nowhere else."""
    return [
        {
            "example_id": f"{prefix}-id-{index}",
            "subject_id": f"{prefix}-{NAMES[index % len(NAMES)]}",
            "prompt": f"Where is {prefix} {NAMES[index % len(NAMES)]}?",
            "completion": f"In {prefix}ville, {index * 7} street.",
        }
        for index in range(count)
    ]
