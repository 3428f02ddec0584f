"""Summaries for a terminal, as plain text without colour codes, fit for logs and email."""

from collections.abc import Sequence

from verify.report.assurance import assurances, margin_note
from verify.report.channel_words import channels_in_a_cell, outcome_of
from verify.schema.attack_results import AttackResult
from verify.schema.channels import ChannelResult
from verify.schema.evidence import Entry, Evidence
from verify.schema.parts import Value


def summary(evidence: Evidence) -> str:
    """Return the verdict, the reasons, and one row per attack: original, target and the range of the references."""
    lines = [f"verdict: {evidence.verdict_phrase}", *(f"  {sentence}" for sentence in evidence.explanation)]
    if evidence.next_step:
        lines.append(f"  Next: {evidence.next_step}")
    note = margin_note(evidence)
    lines += [f"  {note}"] if note else []
    lines += [f"  {said.text}" for said in assurances(evidence)]
    if evidence.channels:
        header = ["channel", "residual fraction", "outcome", "before, nats", "subjects"]
        lines += ["", *_table(header, [_channel_row(channel) for channel in evidence.channels])]
        lines += [f"{channel.name}: {channel.reason}" for channel in evidence.channels if channel.reason]
    if evidence.rewordings is not None:
        lines.append(evidence.rewordings.said)
    lines += [f"not asked: {entry.channel}: {entry.reason}" for entry in evidence.channels_not_run or ()]
    if evidence.representation is not None:
        lines += ["", f"hidden states (no vote): {evidence.representation.verdict}", f"  {evidence.representation.reason}"]
    names = list(dict.fromkeys(entry.attack for entry in evidence.attacks))
    header = ["attack", "measure", "original", "this model", "references"]
    rows = [_attack_row(evidence, name) for name in names]
    lines += ["", *_table(header, rows)]
    lines += [f"not run: {entry.attack}: {entry.reason}" for entry in evidence.not_run]
    ratio = next((entry.ratio for entry in evidence.utility if entry.model == "target"), None)
    if ratio is not None:
        lines += ["", f"retain-set utility, relative to {yardstick(evidence)}: {ratio} (n = {ratio.n})"]
    failed = [gate for gate in evidence.gates if not gate.passed]
    if failed:
        lines += ["", "validity checks that did not pass:", *(f"  {gate.name}: {gate.reason}" for gate in failed)]
    return "\n".join(lines)


def _channel_row(channel: ChannelResult) -> list[str]:
    return [
        channel.name,
        "-" if channel.residual is None else channel.residual.short(),
        outcome_of(channel),
        "-" if channel.gap is None else f"{channel.gap:.2f}",
        f"{channel.subjects} / {channel.controls}",
    ]


def comparison(entries: Sequence[Entry]) -> str:
    """Return a table with one row per method."""
    header = ["method", "verdict", "residual fraction", "asked otherwise", "membership AUC", "verbatim", "utility", "cost"]
    return plain_table(header, [comparison_row(entry) for entry in entries])


def comparison_row(entry: Entry) -> list[str]:
    """Return the cells of one method, as every comparison shows them, on the terminal and on the page."""
    name, evidence, cost = entry
    loss, verbatim = evidence.attack("loss", "target"), evidence.attack("verbatim", "target")
    ratio = next((row.ratio for row in evidence.utility if row.model == "target"), None)
    word: str = evidence.verdict
    if evidence.verdict == "NOT_FORGOTTEN" and evidence.accused:
        word = f"NOT_FORGOTTEN ({len(evidence.accused)} of {evidence.set('forget').records})"
    return [
        name,
        word,
        "-" if evidence.residual is None else evidence.residual.short(),
        channels_in_a_cell(evidence),
        "-" if loss is None or loss.auc is None else loss.auc.short(),
        "-" if verbatim is None else f"{verbatim.mean.value:.2f}",
        "-" if ratio is None else ratio.short(),
        "-" if cost is None else f"{cost:.2f} x",
    ]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a `|` inside a cell is escaped."""
    lines = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in (header, ["---"] * len(header), *rows))
    return "\n".join(f"| {line} |" for line in lines)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal, its columns aligned."""
    return "\n".join(_table(header, rows))


def yardstick(evidence: Evidence) -> str:
    """Name what the target's utility is divided by: the mean of the references or, without any, the original."""
    references = any(model.role == "reference" for model in evidence.models)
    return "the retrained references" if references else "the model before unlearning"


def _attack_row(evidence: Evidence, name: str) -> list[str]:
    results = [entry for entry in evidence.attacks if entry.attack == name]
    measure = "AUC" if any(entry.auc is not None and entry.family == "membership" for entry in results) else "mean"

    def number(entry: AttackResult) -> Value:
        return entry.auc if measure == "AUC" and entry.auc is not None else entry.mean

    def cell(label: str) -> str:
        found = evidence.attack(name, label)
        return "-" if found is None else number(found).short()

    references = [number(entry).value for entry in results if entry.model.startswith("reference")]
    spread = f"{min(references):.2f} to {max(references):.2f}" if references else "-"
    return [name, measure, cell("original"), cell("target"), spread]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
