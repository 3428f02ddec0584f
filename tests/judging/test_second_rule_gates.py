"""Gates of rule 2: the planted subject, and whether the target is as noisy as the references."""

import numpy as np
import pytest

from verify.judging.gates import SecondRule, negative_control_gate, planted_subject_gate, trained_alike_gate
from verify.schema.settings import Settings
from verify.statistics.controls import NoiseRatio

SETTINGS = Settings(planted_draws=40)
Array = np.ndarray


def rule(seed: int, references: int = 4, gap: float = 2.2, people: int = 20) -> SecondRule:
    """People of four records and as many controls, standard deviations of 0.05 to 0.15 nats."""
    rng, records = np.random.default_rng(seed), 4 * people
    level, own = rng.uniform(2, 4, 2 * records), rng.uniform(0.05, 0.15, 2 * records)
    models = np.stack([level + 0.04 * rng.normal() + own * rng.normal(size=2 * records) for _ in range(references + 1)])
    return SecondRule(
        original=models[0, :records] - gap,
        references=models[1:, :records],
        subjects=[f"p{index // 4}" for index in range(records)],
        texts=list(range(records)),
        control_references=models[1:, records:],
        control_subjects=[f"c{index // 4}" for index in range(records)],
    )


@pytest.mark.parametrize("references", [3, 4, 8])
def test_a_subject_wholly_kept_would_be_found(references: int) -> None:
    """A clear gap: the gate passes and says with which probability one subject would have been found."""
    gate = planted_subject_gate(rule(1, references), SETTINGS)
    assert gate.passed
    assert gate.value is not None
    assert gate.value.value >= 0.8
    assert "One subject of whom everything was kept" in gate.reason


def test_a_subject_that_would_be_missed_forbids_a_certificate() -> None:
    """A gap of twice the margin's noise hides a subject: at best INCONCLUSIVE."""
    gate = planted_subject_gate(rule(2, gap=0.1), SETTINGS)
    assert gate.passed is False
    assert gate.blocks == "INCONCLUSIVE"


def test_two_references_leave_the_gate_open() -> None:
    """Without a tail no subject can be accused, so nothing is claimed."""
    assert planted_subject_gate(rule(3, references=2), SETTINGS).passed is None


def test_no_honest_reference_is_accused_by_the_others() -> None:
    """The negative control runs the whole of rule 2, controls included; a reference that knew four people fails it."""
    honest = rule(4, references=5)
    assert negative_control_gate(honest.original, honest.references, SETTINGS, honest).passed
    knowing = honest.references.copy()
    knowing[2, :16] = honest.original[:16]
    guilty = SecondRule(honest.original, knowing, honest.subjects, honest.texts)
    gate = negative_control_gate(honest.original, knowing, SETTINGS, guilty)
    assert gate.passed is False
    assert "Reference 3" in gate.reason


def test_a_noisier_target_was_not_trained_alike() -> None:
    """Above 2 and not by chance: at best INCONCLUSIVE. By chance, or unmeasured, it stands in nobody's way."""
    clear, chance = NoiseRatio(4.0, 2.5, 4.0, 80, 20), NoiseRatio(2.2, 0.9, 1.0, 12, 3)
    refused = trained_alike_gate(clear)
    assert (refused.passed, refused.blocks) == (False, "INCONCLUSIVE")
    assert "not trained as the references" in refused.reason
    assert trained_alike_gate(chance).passed
    unknown = trained_alike_gate(None)
    assert (unknown.passed, unknown.blocks) == (None, "nothing")
