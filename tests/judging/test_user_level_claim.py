"""User level: fresh texts of the forget set's subjects."""

from dataclasses import replace

import numpy as np
import pytest
from score_tables import simulated_table

from verify.judging.user_level_claim import judge_people
from verify.schema.claims import UserLevelClaim
from verify.schema.settings import Settings
from verify.scores.table import ScoreBlock, ScoreTable

PEOPLE, TEXTS = 60, 4


def table_of_people(*, known: float, known_before: float = 1.0, subjects: int = PEOPLE, seed: int = 0) -> ScoreTable:
    """Fresh texts of forget subjects and of others, four a person; a person who is known loses `known` nats a token on all."""
    rng = np.random.default_rng(seed)
    table = simulated_table(references=1)
    effects = {"original": known_before, "target": known, "reference 1": 0.0}
    blocks: dict[tuple[str, str], ScoreBlock] = {}
    level = rng.normal(4.0, 0.5, (2, PEOPLE * TEXTS))
    for model, effect in effects.items():
        for side, role in enumerate(("fresh", "holdout")):
            count = (subjects if role == "fresh" else PEOPLE) * TEXTS
            loss = level[side][:count] + 0.3 * rng.standard_normal(count) - (effect if role == "fresh" else 0.0)
            blocks[model, role] = ScoreBlock(
                records=tuple(f"{role}{index}".encode().hex().rjust(32, "0") for index in range(count)),
                subjects=tuple(f"{role}{index // TEXTS}".encode().hex().rjust(32, "0") for index in range(count)),
                tokens=np.full(count, 12),
                loss=loss,
                scores={},
            )
    return replace(table, blocks=blocks)


def judged(**truth: float) -> UserLevelClaim:
    people = judge_people(table_of_people(**truth), Settings(twins=True), 0.05, 0.5)  # type: ignore[arg-type]
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
    people = judge_people(table_of_people(known=1.0), Settings(), 0.05, 0.5)
    assert people is not None
    assert people.verdict == "NOT_TESTABLE"


@pytest.mark.parametrize("blind_p", [None, 0.005])
def test_texts_of_another_kind_judge_nothing(blind_p: float | None) -> None:
    """Where words alone tell fresh texts from controls, or nobody looked, the model's telling them says nothing about people."""
    people = judge_people(table_of_people(known=1.0), Settings(twins=True), 0.05, blind_p)
    assert people is not None
    assert people.verdict == "NOT_TESTABLE"
    assert people.blind_p == blind_p


@pytest.mark.slow
@pytest.mark.parametrize("subjects", [2, 3, 5])
def test_a_few_people_are_accused_by_chance_no_more_often(subjects: int) -> None:
    """Honest deletions of few people, whom the model knew well: within alpha over 200 audits (three standard errors)."""
    found = [judged(known=0.0, known_before=2.0, subjects=subjects, seed=seed) for seed in range(200)]
    testable = [people.verdict for people in found if people.verdict != "NOT_TESTABLE"]
    assert len(testable) > 150
    assert np.mean([word == "NOT_FORGOTTEN" for word in testable]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(testable))


def test_a_few_people_can_be_found() -> None:
    """Two who are still known stand out of sixty."""
    assert judged(known=2.0, known_before=2.0, subjects=2).verdict == "NOT_FORGOTTEN"
