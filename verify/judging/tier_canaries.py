"""Tier A: test the deletion procedure by randomly assigned canaries, without retraining.

The coins are independent of everything but the training run. So whatever the deleted model's scores say about them beyond chance
is left of that run, and under perfect deletion the number of right guesses is exactly Binomial(r, 1/2).
"""

from collections.abc import Sequence

import numpy as np

from verify.judging.conformal import calibrated, calibrators
from verify.schema.evidence import Settings
from verify.schema.parts import CoinBatch, Process, Value, VerdictWord
from verify.scores.table import ScoreTable
from verify.statistics.intervals import clopper_pearson
from verify.statistics.one_run import assignment_test, deletion_e_value, one_run_epsilon


def judge_process(
    table: ScoreTable, settings: Settings, alpha: float, commitment: str, earlier: Sequence[CoinBatch] = ()
) -> Process | None:
    """Judge the deletion procedure by its canaries, or None where none were scored.

    The guess about a pair is the member that the target likes better, once how hard each text is has been subtracted with models
    that never saw a canary. The model before deletion takes no part in the guesses: it would give the coins away.

    Args:
        table: has a "canary" block of the target, the original, and whatever canary-free models there are; rows 2j and 2j + 1
            are the members of pair j.
        settings: `canary_guesses` pairs with the largest score differences are guessed, a number fixed beforehand.
        alpha: level of the accusation, both directions together.
        commitment: what fixed the coins.
        earlier: counts of earlier deletions, each with canaries of its own.
    """
    if table.block("target", "canary") is None:
        return None
    guesses, correct = _guess(table, "target", settings)
    _, original_correct = _guess(table, "original", settings)
    pairs = len(table.loss("target", "canary")) // 2
    exact = assignment_test(guesses, correct)
    bounds = [one_run_epsilon(pairs, guesses, right, settings.delta, alpha / 2) for right in (correct, guesses - correct)]
    bound = max(bounds, key=lambda entry: entry.epsilon)
    batches = (*earlier, CoinBatch(commitment=commitment, guesses=guesses, correct=correct))
    evidence = deletion_e_value([batch.guesses for batch in batches], [batch.correct for batch in batches], settings.bet)
    log_e_value = float(evidence.log_e_values[-1])
    seen = assignment_test(guesses, original_correct).remembered <= alpha
    leaks = bound.epsilon > settings.epsilon
    verdict: VerdictWord = "NOT_TESTABLE" if not seen else "NOT_FORGOTTEN" if leaks else "INCONCLUSIVE"
    return Process(
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
    """Count how many pairs are guessed, and how many correctly."""
    block = table.blocks[model, "canary"]
    assert block.included is not None, "canaries come with their coins"
    scores = calibrated(table, model, "canary")
    difference = scores[0::2] - scores[1::2]
    first_included = block.included[0::2]
    clearest = np.argsort(-np.abs(difference), kind="stable")[: settings.canary_guesses]
    # A tie says nothing; guessing "the second" then is as good as a coin, for the coin is fair.
    return len(clearest), int(((difference > 0) == first_included)[clearest].sum())


def _reason(verdict: VerdictWord, guesses: int, correct: int, original: int, epsilon: float, settings: Settings) -> str:
    if verdict == "NOT_TESTABLE":
        return (
            f"In the model before deletion only {original} of {guesses} coins are guessed: it hardly remembered its canaries, so "
            "nothing about their deletion can be seen. Train with more canaries, or longer."
        )
    found = f"From the deleted model {correct} of {guesses} coins are guessed (before deletion: {original})."
    if verdict == "NOT_FORGOTTEN":
        return f"{found} The procedure leaks at least {epsilon:.2f} nats about a record; {settings.epsilon:g} were allowed."
    return (
        f"{found} A leak beyond {settings.epsilon:g} nats was not found, which is no proof that there is none: these canaries "
        f"show at least {epsilon:.2f}."
    )
