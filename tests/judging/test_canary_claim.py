"""Tier A: what canary assignments say about a deletion procedure."""

import numpy as np
import pytest
from score_tables import canary_table

from verify.judging.canary_claim import judge_process
from verify.schema.claims import CanaryBatch, ProcedureClaim
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.one_run import one_run_epsilon

SETTINGS = Settings()
COMMITMENT, OTHER = "a" * 64, "b" * 64


def judged(table: ScoreTable, **changes: object) -> ProcedureClaim:
    process = judge_process(table, SETTINGS.model_copy(update=changes), 0.05, COMMITMENT)
    assert process is not None
    return process


def test_a_procedure_that_deletes_nothing_is_found() -> None:
    """With the canaries left in, nearly every coin is guessed, and the bound is the one-run bound of those counts."""
    process = judged(canary_table(remembered=1.0))
    assert process.verdict == "NOT_FORGOTTEN"
    assert process.correct > 95
    assert process.epsilon == one_run_epsilon(300, 100, process.correct, 0.0, 0.025).epsilon > 2
    assert process.against_retraining == process.epsilon / 2


def test_a_procedure_that_overshoots_is_found() -> None:
    """A canary that became less likely than one never trained is a trace as well."""
    process = judged(canary_table(remembered=-1.0))
    assert process.verdict == "NOT_FORGOTTEN"
    assert process.inverted_p < 1e-9
    assert process.remembered_p == pytest.approx(1.0)


@pytest.mark.slow
def test_perfect_deletion_is_accused_at_most_alpha_of_the_time() -> None:
    """Right guesses are Binomial(r, 1/2) whatever the scores: mean one half, accusations (against the margin) rarer than alpha."""
    runs = [judged(canary_table(pairs=60, seed=seed), canary_guesses=30) for seed in range(300)]
    correct = np.array([run.correct for run in runs])
    assert abs(correct.mean() - 15) < 4 * np.sqrt(30 / 4 / 300)
    assert np.mean([run.verdict == "NOT_FORGOTTEN" for run in runs]) <= 0.05
    assert all(run.verdict in ("INCONCLUSIVE", "NOT_FORGOTTEN") for run in runs), "silence never certifies"


def test_canaries_that_were_never_learned_judge_nothing() -> None:
    """Where the model before deletion does not give its coins away, silence after deletion means nothing."""
    assert judged(canary_table(known_before=0.0)).verdict == "NOT_TESTABLE"


@pytest.mark.slow
def test_subtracting_a_canary_free_model_sees_more() -> None:
    """A text's difficulty hides its trace: with a reference subtracted more of the same weak traces are guessed."""
    right = {
        calibrated: np.mean([judged(canary_table(remembered=0.3, calibrated=calibrated, seed=seed)).correct for seed in range(10)])
        for calibrated in (False, True)
    }
    assert right[True] > right[False] + 5


def test_evidence_of_deletions_multiplies() -> None:
    """The e-value over batches is the product of the batches': three procedures that leak a little raise an alarm together."""
    earlier = [CanaryBatch(commitment=OTHER, guesses=100, correct=65)] * 2
    process = judge_process(canary_table(remembered=1.0), SETTINGS, 0.05, COMMITMENT, earlier)
    assert process is not None
    by_hand = 0.0
    for batch in process.batches:
        by_hand += batch.correct * np.log1p(0.2) + (batch.guesses - batch.correct) * np.log1p(-0.2)
    assert process.log_e_value == pytest.approx(by_hand)
    assert len(process.batches) == 3


def test_no_canaries_no_claim() -> None:
    """A table without canaries makes no process claim."""
    assert judge_process(ScoreTable({}), SETTINGS, 0.05, COMMITMENT) is None
