"""What stands without the adapter: an unlearning saved as an adapter is undone by deleting its file."""

from collections.abc import Sequence

import numpy as np

from verify.schema.claims import WithoutAdapter
from verify.schema.parts import Value
from verify.schema.settings import Settings
from verify.scores.table import WITHOUT_ADAPTER, ScoreBlock, ScoreTable
from verify.statistics.estimate import Estimate
from verify.statistics.prediction import mean_of_new
from verify.statistics.residual import Array, residual_verdict
from verify.statistics.subjects import subject_means, subject_numbers

SAME_LOSS = 1e-3
"""Largest difference of a record's loss between two passes over the same weights, nats per token: rounding in half precision."""
COVERED = "The verdict is about the model with its adapter; serving it without the adapter is not covered."


def judge_without_adapter(table: ScoreTable, references: Sequence[str], settings: Settings) -> WithoutAdapter | None:
    """Compare the target without its adapter with the original and with the references; None where it has no adapter.

    A base that was never fine-tuned may predict any text of the kind worse than the references, or better, where these know their
    own records by heart. How much is read off the never-trained controls, and taken off before the records are judged as a set.
    Without controls the losses are compared as they are.

    Args:
        table: the scores.
        references: labels of the references.
        settings: margin and level.
    """
    block = table.block(WITHOUT_ADAPTER, "forget")
    if block is None:
        return None
    original, target = table.loss("original", "forget"), table.loss("target", "forget")
    losses = table.losses(references, "forget") if references else None
    same = bool(np.abs(block.loss - original).max() <= SAME_LOSS)
    rho, remembers = None, False
    if losses is not None and len(losses) > 1:
        ahead = None if same else _ahead(table, references, settings.alpha)
        rho, remembers = _judged(original, block.loss, losses, ahead, settings)
    share = "" if rho is None else f", residual fraction {rho}"
    numbers = f"mean loss {block.loss.mean():.3f} nats per token, before unlearning {original.mean():.3f}{share}"
    if same:
        state = "original"
        said = f"Without its adapter the model is the one before unlearning ({numbers}): removing the adapter restores the records."
    elif remembers:
        state = "remembers"
        said = f"Without its adapter the model still knows the records ({numbers}): removing the adapter restores them."
    elif rho is not None and rho.high < settings.margin:
        state = "knows no more"
        said = f"Without its adapter the model knows no more of the records than retrained ones ({numbers})."
    else:
        state = "open"
        said = f"What the model knows of the records without its adapter stays open ({numbers})."
    return WithoutAdapter.model_validate(
        {
            "state": state,
            "loss": float(block.loss.mean()),
            "with_adapter": float(target.mean()),
            "original": float(original.mean()),
            "references": None if losses is None else float(losses.mean()),
            "residual": rho,
            "reason": f"{said} {COVERED}",
        }
    )


def _ahead(table: ScoreTable, references: Sequence[str], alpha: float) -> Estimate | None:
    """Return how much better the model predicts records that no model saw than the references do, nats per token.

    The interval is of the mean over as many new subjects as the forget set has. None without two subjects among the controls.
    """
    block, forget = table.block(WITHOUT_ADAPTER, "holdout"), table.blocks[WITHOUT_ADAPTER, "forget"]
    if block is None:
        return None
    better = table.losses(references, "holdout").mean(axis=0) - block.loss
    means = subject_means(better, subject_numbers(_units(block)))
    return None if len(means) < 2 else mean_of_new(means, len(set(_units(forget))), 1 - 2 * alpha)


def _units(block: ScoreBlock) -> list[str]:
    """Return the subject of each record; a record without one is a unit of its own."""
    return [record if subject is None else subject for record, subject in zip(block.records, block.subjects, strict=True)]


def _judged(original: Array, loss: Array, losses: Array, ahead: Estimate | None, settings: Settings) -> tuple[Value | None, bool]:
    """Return the residual fraction, None where it is undefined, and whether more than the margin was found to be remembered.

    What the model is ahead on controls is an estimate: it remembers only if it does at the upper end of the interval, and the
    residual's interval spans those at both ends. Single records count only without controls: how much a base is ahead differs
    between records, which no spread of the references shows.
    """
    shifts = (0.0, 0.0, 0.0) if ahead is None else (ahead.high, ahead.value, ahead.low)
    verdicts = [residual_verdict(original, loss + shift, losses, settings.margin, settings.alpha) for shift in shifts]
    least, middle, most = (None if one.rho is None or one.mean_gap <= 0 else Value.of(one.rho) for one in verdicts)
    if least is None or middle is None or most is None:
        return None, False
    rho = middle.model_copy(update={"low": least.low, "high": most.high})
    test = verdicts[0].record_test
    alone = ahead is None and bool((test.accused & test.remembered).any())
    return rho, alone or (verdicts[0].mean_test.accused and least.value > settings.margin)
