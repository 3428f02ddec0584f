"""Tier A: test the deletion procedure by randomly assigned canaries, without retraining.

The assignments (which member of each pair was trained) influence nothing but the training run. So anything the scores of the model
after deletion reveal about them beyond chance is left over from that run, and under perfect deletion the number of correct guesses
is exactly Binomial(r, 1/2).
"""

from collections.abc import Sequence

import numpy as np

from verify.judging.conformal import calibrated, calibrators
from verify.schema.claims import CanaryBatch, ProcedureClaim
from verify.schema.parts import Value, VerdictWord
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.intervals import clopper_pearson
from verify.statistics.one_run import assignment_test, deletion_e_value, one_run_epsilon


def judge_process(
    table: ScoreTable, settings: Settings, alpha: float, commitment: str, earlier: Sequence[CanaryBatch] = ()
) -> ProcedureClaim | None:
    """Judge the deletion procedure by its canaries, or return None where none were scored.

    The guess about a pair is the member with the higher score under the target, calibrated for difficulty with models that never
    saw a canary. The model before deletion takes no part in the guesses: it would reveal the assignments.

    Args:
        table: has a "canary" block of the target, the original, and whatever canary-free models there are; rows 2j and 2j + 1
            are the members of pair j.
        settings: `canary_guesses` is the number of pairs that are guessed, those with the largest score differences.
        alpha: level of the accusation, both directions together.
        commitment: digest that fixed the assignments before training.
        earlier: counts of earlier deletions, each with its own canaries.
    """
    if table.block("target", "canary") is None:
        return None
    guesses, correct = _guess(table, "target", settings)
    _, original_correct = _guess(table, "original", settings)
    pairs = len(table.loss("target", "canary")) // 2
    exact = assignment_test(guesses, correct)
    bounds = [one_run_epsilon(pairs, guesses, right, settings.delta, alpha / 2) for right in (correct, guesses - correct)]
    bound = max(bounds, key=lambda entry: entry.epsilon)
    batches = (*earlier, CanaryBatch(commitment=commitment, guesses=guesses, correct=correct))
    evidence = deletion_e_value([batch.guesses for batch in batches], [batch.correct for batch in batches], settings.bet)
    log_e_value = float(evidence.log_e_values[-1])
    seen = assignment_test(guesses, original_correct).remembered <= alpha
    leaks = bound.epsilon > settings.epsilon
    verdict: VerdictWord = "NOT_TESTABLE" if not seen else "NOT_FORGOTTEN" if leaks else "INCONCLUSIVE"
    return ProcedureClaim(
        commitment=commitment,
        pairs=pairs,
        guesses=guesses,
        correct=correct,
        accuracy=Value.of(clopper_pearson(correct, guesses, settings.confidence)),
        remembered_p=exact.remembered,
        inverted_p=exact.inverted,
        epsilon=bound.epsilon,
        against_retraining=bound.against_retraining,
        delta=settings.delta,
        significance=alpha / 2,
        limit=settings.epsilon,
        calibrated_by=len(calibrators(table, "canary")),
        original_accuracy=Value.of(clopper_pearson(original_correct, guesses, settings.confidence)),
        batches=batches,
        log_e_value=log_e_value,
        verdict=verdict,
        reason=_reason(verdict, guesses, correct, original_correct, bound.epsilon, settings),
    )


def _guess(table: ScoreTable, model: str, settings: Settings) -> tuple[int, int]:
    """Return how many pairs are guessed, and how many of them correctly."""
    block = table.blocks[model, "canary"]
    assert block.included is not None, "canaries come with their assignments"
    scores = calibrated(table, model, "canary")
    difference = scores[0::2] - scores[1::2]
    first_included = block.included[0::2]
    clearest = np.argsort(-np.abs(difference), kind="stable")[: settings.canary_guesses]
    # A tie carries no information; always guessing "the second" is then right half of the time, for the assignment is fair.
    return len(clearest), int(((difference > 0) == first_included)[clearest].sum())


def _reason(verdict: VerdictWord, guesses: int, correct: int, original: int, epsilon: float, settings: Settings) -> str:
    if verdict == "NOT_TESTABLE":
        return (
            f"On the model before deletion only {original} of {guesses} canary assignments are guessed correctly: it hardly "
            "remembered its canaries, so their deletion cannot be tested. Train with more canaries, or longer."
        )
    found = f"On this model {correct} of {guesses} canary assignments are guessed correctly (before deletion: {original})."
    if verdict == "NOT_FORGOTTEN":
        return f"{found} The procedure leaks at least {epsilon:.2f} nats about a record; the limit is {settings.epsilon:g}."
    return (
        f"{found} A leak beyond {settings.epsilon:g} nats was not found, which does not prove that there is none: these canaries "
        f"show a leak of at least {epsilon:.2f}."
    )
