"""Table and sentences of the matrix; every number and judgement on the page is computed here."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.matrix.checks import EXACT, Check
from benchmarks.matrix.figure import HEADLINE, PANELS
from benchmarks.matrix.results import Cell, span
from benchmarks.matrix.rows import Row
from verify.schema.parts import Value

STOPS, LEAVES = 0.10, 0.90
"""Share of the undefended leak up to which a defence "stops" a threat, and from which it "leaves" it."""

BY_ROW = Mapping[str, Sequence[Cell]]
Column = tuple[str, Callable[[Cell], Value | None]]
_COLUMNS: tuple[Column, ...] = (
    ("membership AUC", lambda cell: cell.attack(HEADLINE).auc),
    ("TPR at 1 % FPR", lambda cell: cell.attack(HEADLINE).tpr.get("0.01")),
    ("TPR at 10 % FPR", lambda cell: cell.attack(HEADLINE).tpr.get("0.1")),
    ("verbatim", lambda cell: cell.verbatim),
    ("log p_z", lambda cell: cell.log_probability),
    ("strength", lambda cell: cell.strength),
    ("trigger works", lambda cell: cell.triggers.gone),
    ("false triggers", lambda cell: cell.triggers.false),
    ("others' triggers", lambda cell: cell.triggers.stays),
    ("utility", lambda cell: cell.utility),
    ("unseen text", lambda cell: cell.unseen),
)


def by_row(cells: Sequence[Cell], rows: Mapping[str, Row]) -> dict[str, list[Cell]]:
    """Group the cells by row, in the table's order."""
    grouped = {name: [cell for cell in cells if cell.row == name] for name in rows}
    return {name: found for name, found in grouped.items() if found}


def table(cells: Sequence[Cell], rows: Mapping[str, Row]) -> str:
    """Format the matrix in Markdown, with a second table for the poisoned base model."""
    grouped = by_row(cells, rows)
    main = {name: found for name, found in grouped.items() if rows[name].step != "poisoned"}
    poisoned = {name: found for name, found in grouped.items() if rows[name].step == "poisoned"}
    columns, counted = _columns(cells), any(cell.tokens is not None for cell in cells)
    header = ["defence", *(name for name, _ in columns), *(["tokens"] if counted else []), "seconds", "MiB", "verdict"]
    lines = _markdown(header, [_row(found, rows[name], columns, counted) for name, found in main.items()])
    if poisoned:
        lines += ["", "A few epochs from the clean and from the poisoned base model (`loss` attack):", ""]
        lines += _markdown(
            ["defence", "membership AUC", "TPR at 1 % FPR", "TPR at 10 % FPR", "verbatim", "log p_z", "strength", "unseen text"],
            [_poisoned_row(found, rows[name]) for name, found in poisoned.items()],
        )
    return "\n".join(lines) + "\n"


def _columns(cells: Sequence[Cell]) -> list[Column]:
    """Return the columns with an interval: one more for each kind of text in general that was measured."""
    kinds = dict.fromkeys(kind for cell in cells for kind in cell.general)
    return [*_COLUMNS, *((f"{kind} text", partial(_general, kind)) for kind in kinds)]


def _general(kind: str, cell: Cell) -> Value | None:
    return cell.general.get(kind)


def _row(cells: Sequence[Cell], row: Row, columns: Sequence[Column], counted: bool) -> list[str]:
    seconds, memory = _seconds(cells), sum(cell.memory for cell in cells) / len(cells)
    known = [cell.tokens for cell in cells if cell.tokens is not None]
    tokens = [f"{sum(known) / len(known):.2f}" if known else "-"] if counted else []
    values = [_spanned(cells, read) for _, read in columns]
    return [row.label, *values, *tokens, "-" if seconds is None else f"{seconds:.1f}", f"{memory:.0f}", _verdicts(cells)]


def _poisoned_row(cells: Sequence[Cell], row: Row) -> list[str]:
    reads: list[Callable[[Cell], Value | None]] = [
        lambda cell: cell.attack("loss").auc,
        lambda cell: cell.attack("loss").tpr.get("0.01"),
        lambda cell: cell.attack("loss").tpr.get("0.1"),
        lambda cell: cell.verbatim,
        lambda cell: cell.log_probability,
        lambda cell: cell.strength,
        lambda cell: cell.unseen,
    ]
    return [row.label, *(_spanned(cells, read) for read in reads)]


def _spanned(cells: Sequence[Cell], read: Callable[[Cell], Value | None]) -> str:
    values = [value for cell in cells if (value := read(cell)) is not None]
    return span(values).short() if values else "-"


def _verdicts(cells: Sequence[Cell]) -> str:
    """Format verdicts with their numbers of seeds; in parentheses where the references were trained differently."""
    words = dict.fromkeys(cell.verdict for cell in cells)
    text = ", ".join(f"{word} {sum(cell.verdict == word for cell in cells)}/{len(cells)}" for word in words)
    return text if cells[0].alike else f"({text})"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def sentences(cells: Sequence[Cell], rows: Mapping[str, Row]) -> str:
    """Format what each defence achieves against each threat, as a Markdown list."""
    grouped = by_row(cells, rows)
    exact = next((name for name in EXACT if name in grouped), None)
    lines = [
        f"- **{rows[name].label}**: {_judged(found, grouped, exact)}"
        for name, found in grouped.items()
        if rows[name].step != "poisoned" and name not in ("none", exact)
    ]
    return "\n".join([*lines, *_poisoned_sentences(grouped, rows), *_base_sentence(cells)]) + "\n"


def _base_sentence(cells: Sequence[Cell]) -> list[str]:
    """Say what the base model can do before any fine-tuning: a defence that reaches no more has taught nothing."""
    known = [cell.base_utility for cell in cells if cell.base_utility is not None]
    return [f"- **The base model** before fine-tuning has utility {span(known).short()} of retraining's."] if known else []


def _judged(found: Sequence[Cell], grouped: BY_ROW, exact: str | None) -> str:
    """Say what is left of each threat, of the distance between no defence and this row of an exact deletion."""
    threats = []
    for name, (_, read) in zip(("membership inference", "extraction", "the backdoor"), PANELS, strict=True):
        here, none = _mean(found, read), _mean(grouped["none"], read)
        floor = _floor(found, name) if exact is None else _mean(grouped[exact], read)
        kept = left_of(here, none, floor)
        least = "rollback" if exact == "rollback" else "retraining"
        threats.append(f"{_word(kept)} {name} ({_share(kept)}: {here:.2f}; no defence {none:.2f}, {least} {floor:.2f})")
    utility = span([cell.utility for cell in found])
    seconds, without = _seconds(found), _seconds(grouped["none"])
    time = f", {seconds / without:.1f} x the time of training without defence" if seconds and without else ""
    return f"{'; '.join(threats)}. Utility {utility.short()} of retraining's{time}."


def left_of(here: float, none: float, floor: float) -> float | None:
    """Return the share of a leak that remains under a defence: 1 as without defence, 0 as retrained; None where nothing leaks."""
    return None if none - floor < 0.05 else (here - floor) / (none - floor)


def _word(kept: float | None) -> str:
    if kept is None:
        return "cannot be judged on"
    if kept < -STOPS:
        return "overshoots on"
    return "stops" if kept <= STOPS else "leaves" if kept >= LEAVES else "weakens"


def _share(kept: float | None) -> str:
    return "nothing leaks here" if kept is None else f"{100 * kept:.0f} % left"


def _floor(found: Sequence[Cell], threat: str) -> float:
    """Return the expected value of a model that never saw the records, for runs without a retraining."""
    if threat == "the backdoor":
        return _mean(found, lambda cell: cell.triggers.never)
    return 0.5 if threat == "membership inference" else 0.0


def _poisoned_sentences(grouped: BY_ROW, rows: Mapping[str, Row]) -> list[str]:
    lines = []
    for name, found in grouped.items():
        clean = name.replace("poisoned-", "clean-", 1)
        if name.startswith("poisoned-") and clean in grouped:
            changes = [
                f"{title} {span([read(cell) for cell in grouped[clean]]).short()} to {span([read(cell) for cell in found]).short()}"
                for title, read in (("AUC", _loss_auc), ("extraction strength", _strength))
            ]
            lines.append(f"- **{rows[name].label}** against the clean one: {', '.join(changes)}.")
    return lines


def _loss_auc(cell: Cell) -> Value:
    return cell.attack("loss").auc


def _strength(cell: Cell) -> Value:
    return cell.strength


def _mean(cells: Sequence[Cell], read: Callable[[Cell], Value]) -> float:
    return sum(read(cell).value for cell in cells) / len(cells)


def _seconds(cells: Sequence[Cell]) -> float | None:
    """Return the mean time of making a row's models; None where one of them has none."""
    known = [cell.seconds for cell in cells if cell.seconds is not None]
    return sum(known) / len(known) if len(known) == len(cells) else None


def checks_as_list(checks: Sequence[Check]) -> str:
    """Format the checks as a Markdown list."""
    words = {True: "holds", False: "FAILS", None: "not examined"}
    return "\n".join(f"- {check.name}: {words[check.passed]} ({check.reason})" for check in checks) + "\n"
