"""Markdown page of the figures of `half_precision.py`."""

from typing import Any

EARLIER = "as stored, before"
WAYS = {"float32": "float32", "nearest": "float32, rounded to nearest", "auto": "as stored"}
"""How a method was run -> its name on the page."""
HEADER = ("method", "way", "forget loss", "rise", "rise / float32's", "residual", "retain loss", "weights moved", "seconds")


def table(figures: dict[str, Any], earlier: dict[str, Any] | None) -> str:
    """Format the page.

    Args:
        figures: measurements of `half_precision.py`.
        earlier: those of another version, with "auto" runs only, or None.
    """
    lines = [
        "# Half precision",
        "",
        "Written by `benchmarks/half_precision.py`, which describes the measurement; docs/half-precision.md explains the result.",
        "Losses in nats per token, evaluated in float32; rise: forget loss minus that before unlearning; residual: the audit's",
        "residual fraction, against four retrained references (0: retrained; 1: untouched). *As stored* is what a user gets from",
        "a model in that type; *float32* is `--dtype float32` on equal weights.",
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
    """Format one row per way of running a method."""
    whole = runs["float32"]["forget_loss"] - before
    named = [(label, runs[way]) for way, label in WAYS.items() if way in runs]
    named += [] if earlier is None else [(EARLIER, earlier)]
    rows = []
    for label, one in named:
        rise = one["forget_loss"] - before
        cells = (
            name,
            label,
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
    """Format the table of peak memory by storage and precision."""
    lines = [
        "",
        "## Memory",
        "",
        "Peak memory per weight of a process that loads the preset model (22.7 million weights) and trains it for three steps of",
        "eight records with AdamW, above that before loading: 16 bytes for weight, gradient and moments, the rest for activations",
        "and libraries. One thread of a busy machine: seconds are comparable only within the column.",
        "",
        "| stored in, loaded with | bytes per trained weight | seconds per step |",
        "| --- | --- | --- |",
    ]
    rows = (f"| {name} | {one['bytes_per_weight']:.1f} | {one['seconds_per_step']:.1f} |" for name, one in found.items())
    return [*lines, *rows]
