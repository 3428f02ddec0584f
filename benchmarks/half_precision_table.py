"""The figures of `half_precision.py` as a page."""

from typing import Any

EARLIER = "as stored, before"
WAYS = {"float32": "float32", "nearest": "float32, rounded to nearest", "auto": "as stored"}
"""How a method was run -> what the page calls it."""
HEADER = ("method", "way", "forget loss", "rise", "rise / float32's", "residual", "retain loss", "weights moved", "seconds")


def table(figures: dict[str, Any], earlier: dict[str, Any] | None) -> str:
    """The page.

    Args:
        figures: what `half_precision.py` measured.
        earlier: the same of another version, runs "auto" alone, or None.
    """
    lines = [
        "# Half precision",
        "",
        "Written by `benchmarks/half_precision.py`, which says how it is measured; docs/half-precision.md says what it means.",
        "Losses in nats per token, evaluated in float32; rise: of the forget loss above the model before unlearning; residual: as",
        "the audit gives it, against four retrained references (0: as a retraining; 1: untouched). *As stored* is what a user gets",
        "from a model in that type; *float32* is `--dtype float32` on equal weights.",
    ]
    for kind, found in figures["methods"].items():
        before = found["original"]
        lines += [
            "",
            f"## Stored in {kind}",
            "",
            f"Before unlearning: forget loss {before['forget_loss']:.4f}, retain loss {before['retain_loss']:.4f}, "
            f"residual {before['residual']:.3f}.",
            "",
            f"| {' | '.join(HEADER)} |",
            f"|{' --- |' * len(HEADER)}",
        ]
        for name, runs in found.items():
            if name != "original":
                old = None if earlier is None else earlier["methods"].get(kind, {}).get(name)
                lines += _rows(name, runs, None if old is None else old["auto"], before["forget_loss"])
    return "\n".join([*lines, *_memory(figures["memory"]), ""])


def _rows(name: str, runs: dict[str, Any], earlier: dict[str, Any] | None, before: float) -> list[str]:
    """One row a way."""
    whole = runs["float32"]["forget_loss"] - before
    named = [(said, runs[way]) for way, said in WAYS.items() if way in runs]
    named += [] if earlier is None else [(EARLIER, earlier)]
    rows = []
    for said, one in named:
        rise = one["forget_loss"] - before
        cells = (
            name,
            said,
            f"{one['forget_loss']:.4f}",
            f"{rise:.4f}",
            f"{rise / whole:.3f}",
            f"{one['residual']:.4f}",
            f"{one['retain_loss']:.4f}",
            f"{one['moved']:.1%}",
            f"{one['seconds']:.0f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _memory(found: dict[str, Any]) -> list[str]:
    """Peak memory by storage and precision."""
    lines = [
        "",
        "## Memory",
        "",
        "Peak of a process that loads the preset model (22.7 million weights) and trains it for three steps of eight records with",
        "AdamW, above what it held before loading, by weight: 16 bytes for weight, gradient and moments, and activations and",
        "libraries besides. One thread of a busy machine: seconds compare within the column alone.",
        "",
        "| stored in, loaded with | bytes per trained weight | seconds per step |",
        "| --- | --- | --- |",
    ]
    rows = (f"| {name} | {one['bytes_per_weight']:.1f} | {one['seconds_per_step']:.1f} |" for name, one in found.items())
    return [*lines, *rows]
