"""Validity checks of a matrix run: known outcomes that the measurements must reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from benchmarks.matrix.results import Cell
from verify.statistics.privacy import epsilon_from_rates

LEVEL = 0.05
"""Probability that a check fails by chance: all comparisons with the bound together, or each exact deletion."""


EXACT = ("exact", "rollback")
"""Rows of exact deletions from the untouched model, the first of which in a run shows what is left without the records."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what must hold.
        passed: whether it holds; None where no cell could be examined.
        reason: the explanation, with numbers.
    """

    name: str
    passed: bool | None
    reason: str


def run_checks(cells: Sequence[Cell]) -> list[Check]:
    """Run all checks on the cells of one matrix."""
    return [privacy_bound(cells), untouched_detected(cells), exact_passes(cells), control_detected(cells)]


def privacy_bound(cells: Sequence[Cell]) -> Check:
    """Check that no attack exceeds the bound `TPR <= e^epsilon FPR + delta` of differential privacy.

    Each attack at each threshold gives a lower limit on epsilon (Clopper-Pearson on both rates). The level is divided among all of
    them (Bonferroni), so that a correct implementation fails with probability at most `LEVEL`.
    """
    name = "no attack above the bound of differential privacy"
    found = [(cell, counts) for cell in cells if cell.epsilon is not None for counts in cell.counts]
    if not found:
        return Check(name, None, "no cell with differential privacy")
    above, closest = [], 0.0
    for cell, counts in found:
        assert cell.epsilon is not None, "chosen above"
        calls = (counts.true_positives, counts.false_negatives, counts.false_positives, counts.true_negatives)
        shown = epsilon_from_rates(*calls, delta=cell.delta or 0.0, confidence=1 - LEVEL / len(found)).lower
        closest = max(closest, shown / cell.epsilon)
        if shown > cell.epsilon:
            above.append(f"{counts.attack} shows epsilon >= {shown:.2f} in {cell.row} (seed {cell.seed})")
    summary = f"{len(found)} comparisons; the strongest attack shows {closest:.0%} of the epsilon that is guaranteed"
    return Check(name, not above, "; ".join(above) or summary)


def untouched_detected(cells: Sequence[Cell]) -> Check:
    """Check that untouched models are detected by the audit, and by the triggers if the model had learned them."""
    chosen = [cell for cell in cells if cell.row == "none"]
    missed = [f"seed {cell.seed}: the audit says {cell.verdict}" for cell in chosen if cell.verdict != "NOT_FORGOTTEN"]
    missed += [
        f"seed {cell.seed}: triggers work {cell.triggers.gone.value:.0%} of the time"
        for cell in chosen
        if cell.triggers.kept is False
    ]
    unlearned = [str(cell.seed) for cell in chosen if cell.triggers.kept is None]
    summary = f"{len(chosen)} untouched models, all detected by the audit and by the triggers"
    if unlearned:
        summary = f"{len(chosen)} untouched models, all detected by the audit; triggers not learned in seed {', '.join(unlearned)}"
    return _all("the do-nothing defence is detected", chosen, missed, summary)


def exact_passes(cells: Sequence[Cell]) -> Check:
    """Check that exact deletions are not distinguished from retrainings more often than the audit's own level allows."""
    name = "exact deletion is indistinguishable from retraining"
    chosen = [cell for cell in cells if cell.row in EXACT]
    if not chosen:
        return Check(name, None, "no exact deletion in this run")
    accused = sum(cell.verdict == "NOT_FORGOTTEN" or cell.triggers.kept is True for cell in chosen)
    chance = float(stats.binom(len(chosen), LEVEL).sf(accused - 1))
    reason = (
        f"{accused} of {len(chosen)} exact deletions accused; at level {LEVEL:g} each, chance gives this many with p = {chance:.3f}"
    )
    # Strictly above the level: with one cell, one accusation must fail, and its probability is the level itself.
    return Check(name, accused == 0 or chance > LEVEL + 1e-9, reason)


def control_detected(cells: Sequence[Cell]) -> Check:
    """Check that further fine-tuning on the retain data alone is detected as not forgetting."""
    chosen = [cell for cell in cells if cell.row == "control"]
    missed = [f"seed {cell.seed}: {cell.verdict}" for cell in chosen if cell.verdict != "NOT_FORGOTTEN"]
    summary = f"{len(chosen)} models fine-tuned on retain data alone, all detected as not forgetting"
    return _all("fine-tuning on retain data alone is detected as not forgetting", chosen, missed, summary)


def _all(name: str, chosen: Sequence[Cell], missed: Sequence[str], summary: str) -> Check:
    """Return a check that passes if no cell was missed."""
    if not chosen:
        return Check(name, None, "no such cell in this run")
    return Check(name, not missed, f"missed: {', '.join(missed)}" if missed else summary)
