"""User level: fresh texts of the forget set's subjects."""

from dataclasses import replace

import numpy as np
from score_tables import simulated_table

from verify.claims.people import judge_people
from verify.evidence import Settings
from verify.findings import People
from verify.scores import ScoreBlock, ScoreTable

PEOPLE, TEXTS = 60, 4


def table_of_people(*, known: float, known_before: float = 1.0, seed: int = 0) -> ScoreTable:
    """Fresh texts of forget subjects and of others, four a person; a person who is known loses `known` nats a token on all."""
    rng = np.random.default_rng(seed)
    table = simulated_table(references=1)
    effects = {"original": known_before, "target": known, "reference 1": 0.0}
    blocks: dict[tuple[str, str], ScoreBlock] = {}
    level = rng.normal(4.0, 0.5, (2, PEOPLE * TEXTS))
    for model, effect in effects.items():
        for side, role in enumerate(("fresh", "holdout")):
            count = PEOPLE * TEXTS
            loss = level[side] + 0.3 * rng.standard_normal(count) - (effect if role == "fresh" else 0.0)
            blocks[model, role] = ScoreBlock(
                records=tuple(f"{role}{index}".encode().hex().rjust(32, "0") for index in range(count)),
                subjects=tuple(f"{role}{index // TEXTS}".encode().hex().rjust(32, "0") for index in range(count)),
                tokens=np.full(count, 12),
                loss=loss,
                scores={},
            )
    return replace(table, blocks=blocks)


def judged(**truth: float) -> People:
    people = judge_people(table_of_people(**truth), Settings(twins=True), 0.05)  # type: ignore[arg-type]
    assert people is not None
    return people


def test_people_who_are_still_known_are_found() -> None:
    """Where every fresh text of a subject is more likely than under retraining, the set and single people stand out."""
    people = judged(known=1.0)
    assert people.verdict == "NOT_FORGOTTEN"
    assert people.subjects == people.controls == PEOPLE
    assert people.texts == PEOPLE * TEXTS
    assert people.auc.value > 0.95


def test_people_who_are_gone_are_not_accused() -> None:
    """Over 60 honest audits, accusations are no more frequent than alpha allows (three standard errors)."""
    accused = np.mean([judged(known=0.0, seed=seed).verdict == "NOT_FORGOTTEN" for seed in range(60)])
    assert accused <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_people_who_were_never_known_judge_nothing() -> None:
    """A model that did not know these people before unlearning cannot be shown to have forgotten them."""
    assert judged(known=0.0, known_before=0.0).verdict == "NOT_TESTABLE"


def test_people_need_controls_drawn_at_random() -> None:
    """People of another origin are no controls."""
    people = judge_people(table_of_people(known=1.0), Settings(), 0.05)
    assert people is not None
    assert people.verdict == "NOT_TESTABLE"
