"""What stands without the adapter: an unlearning saved as an adapter is undone by deleting its file."""

from collections.abc import Sequence

import numpy as np

from verify.schema.evidence import Settings
from verify.schema.parts import Value, WithoutAdapter
from verify.scores.table import WITHOUT_ADAPTER, ScoreTable
from verify.statistics.residual import ResidualVerdict, residual_verdict

SAME_LOSS = 1e-3
"""Largest difference of a record's loss between two passes over the same weights, nats per token: rounding in half precision."""
COVERED = "The verdict is about the model with its adapter; serving it without the adapter is not covered."


def judge_without_adapter(table: ScoreTable, references: Sequence[str], settings: Settings) -> WithoutAdapter | None:
    """Compare the target without its adapter with the original and with the references; None where it has no adapter.

    The question has one side only: a base that was never fine-tuned predicts the records worse than any reference, and restores
    nothing.

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
    verdict = None
    if losses is not None and len(losses) > 1:
        verdict = residual_verdict(original, block.loss, losses, settings.margin, settings.alpha)
    rho = None if verdict is None or verdict.rho is None or verdict.mean_gap <= 0 else Value.of(verdict.rho)
    share = "" if rho is None else f", residual fraction {rho}"
    numbers = f"mean loss {block.loss.mean():.3f} nats per token, before unlearning {original.mean():.3f}{share}"
    if np.abs(block.loss - original).max() <= SAME_LOSS:
        state = "original"
        said = f"Without its adapter the model is the one before unlearning ({numbers}): removing the adapter restores the records."
    elif rho is not None and verdict is not None and _remembers(verdict, rho, settings.margin):
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


def _remembers(verdict: ResidualVerdict, rho: Value, margin: float) -> bool:
    """Return whether the mean residual or a record was found beyond the margin on the side of remembering."""
    test = verdict.record_test
    return (verdict.mean_test.accused and rho.value > margin) or bool((test.accused & test.remembered).any())
