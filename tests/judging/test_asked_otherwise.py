"""The record claim on every channel: precedence of all that matters, what the word names, and the innocence of references."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from audits import BLIND, evidence_of
from score_tables import simulated_table, with_channels

from verify.judging.innocence import innocence_gate, memorized_gate
from verify.judging.protocol import Aside, judge
from verify.judging.record_claim import ReferenceTests
from verify.schema.settings import Settings
from verify.scores.table import ScoreBlock, ScoreTable

SETTINGS = Settings(planted_draws=40)
HONEST = {"rewording 1": 0.0, "instruction": 0.0, "layer 1": 0.0}
KNOWN = HONEST | {"rewording 1": 0.6}
NEAR = HONEST | {"instruction": 0.1}
OVERSHOT = HONEST | {"layer 1": -0.5}
REFERENCES, OTHERWISE = "retrained references", "asked otherwise"


def judged(truth: dict[str, Any], kept: dict[str, float] | None, settings: Settings = SETTINGS, **channels: float) -> Any:
    table = simulated_table(**({"references": 8} | truth))
    return judge(table if kept is None else with_channels(table, kept, **channels), settings, Aside(BLIND))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "kept", "word", "accused_by"),
    [
        ({}, HONEST, "EQUIVALENT_WITHIN", ()),
        ({}, None, "EQUIVALENT_WITHIN", ()),
        ({"controls": 0}, None, "EQUIVALENT_WITHIN", ()),
        ({}, KNOWN, "NOT_FORGOTTEN", (OTHERWISE,)),
        ({}, OVERSHOT, "NOT_FORGOTTEN", (OTHERWISE,)),
        ({"kept": 0.2}, HONEST, "NOT_FORGOTTEN", (REFERENCES,)),
        ({"kept": 0.2}, KNOWN, "NOT_FORGOTTEN", (REFERENCES, OTHERWISE)),
        ({}, NEAR, "INCONCLUSIVE", ()),
        ({"kept": 0.2}, NEAR, "NOT_FORGOTTEN", (REFERENCES,)),
        ({"retain": False}, HONEST, "INCONCLUSIVE", ()),
        ({"retain": False}, KNOWN, "NOT_FORGOTTEN", (OTHERWISE,)),
        ({"destroyed": 3.0}, HONEST, "NOT_TESTABLE", ()),
        ({"destroyed": 3.0}, KNOWN, "NOT_TESTABLE", ()),
        ({"gap": 0.01}, KNOWN, "NOT_TESTABLE", ()),
        ({"references": 2, "model_spread": 0.01}, HONEST, "INCONCLUSIVE", ()),
        ({"references": 2, "model_spread": 0.01}, KNOWN, "NOT_FORGOTTEN", (OTHERWISE,)),
        ({"references": 1}, KNOWN, "NOT_TESTABLE", ()),
        ({"references": 0}, KNOWN, "NOT_TESTABLE", ()),
    ],
)
def test_precedence(truth: dict[str, Any], kept: dict[str, float] | None, word: str, accused_by: tuple[str, ...]) -> None:
    """A failed check before an accusation, an accusation by any channel before a certificate, a certificate only by all."""
    found = judged(truth, kept)
    assert (found.verdict, found.accused_by) == (word, accused_by), found.explanation


@pytest.mark.slow
def test_a_model_that_is_good_on_the_exact_text_alone_is_told_so() -> None:
    """The two-faced model: within the margin as trained, beyond it in other words. Page 1 says both, with the numbers."""
    evidence = evidence_of(with_channels(simulated_table(references=8), KNOWN))
    assert evidence.verdict_phrase == "NOT_FORGOTTEN (asked otherwise: 1 channel)"
    assert evidence.asked == ("rewording 1",)
    said = " ".join(evidence.explanation)
    assert "On the exact texts alone the model is within the margin; asked otherwise it is not." in said
    assert "on 1 of 4 channels: rewording 1 0.60 [0.59, 0.62]." in said
    by_name = {channel.name: channel for channel in evidence.channels}
    assert by_name["rewording 1"].residual is not None
    assert by_name["rewording 1"].residual.value == pytest.approx(0.6, abs=0.03)
    assert [channel.name for channel in evidence.channels if channel.certified] == ["exact text", "instruction", "layer 1"]


def test_controls_accuse_on_the_exact_text_where_references_vary_too_much() -> None:
    """Model-wide levels differ by 0.3 nats, which controls show and take out: three tenths kept are found, on the exact text."""
    table = simulated_table(references=8, model_spread=0.3)
    block = table.blocks["target", "forget"]
    table = ScoreTable({**table.blocks, ("target", "forget"): replace(block, loss=block.loss - 0.3 * 2.2)})
    evidence = evidence_of(table)
    assert (evidence.verdict_phrase, evidence.accused_by, evidence.asked) == ("NOT_FORGOTTEN", (REFERENCES,), ())
    assert evidence.tests
    assert not any(test.fired for test in evidence.tests if test.name.startswith("A"))
    assert any("controls, which vary with the model, show it" in sentence for sentence in evidence.explanation)


@pytest.mark.slow
def test_the_word_names_what_was_asked() -> None:
    """With controls and channels their number, without them the exact text; the sentence of the scope says the same."""
    asked = evidence_of(with_channels(simulated_table(references=8), HONEST))
    assert asked.verdict_phrase == "EQUIVALENT_WITHIN(rho = 0.1, alpha = 0.05; 4 channels)"
    assert asked.asked == ("exact text", *HONEST)
    assert "It was asked in other words, too; within the same margin it is on 3 other channels" in asked.scope
    alone = evidence_of(simulated_table(references=8))
    assert alone.verdict_phrase == "EQUIVALENT_WITHIN(rho = 0.1, alpha = 0.05; exact text, mean loss)"
    assert "It was not asked in other words, or in any other way." in alone.scope
    without = evidence_of(with_channels(simulated_table(references=8), {"int8": 0.0}))
    assert "It was not asked in other words; within the same margin it is on 1 other channel: int8" in without.scope
    for evidence in (asked, alone, without):
        assert evidence.not_shown[0].startswith(
            "A model can be made to give these losses and still know the records, and nobody can"
        )
        assert ("rewordings that the auditor draws after" in evidence.not_shown[0]) is (evidence is not alone)


@pytest.mark.slow
def test_an_open_verdict_does_not_read_as_nothing_found() -> None:
    """It says what is open, on the exact text and asked otherwise, and what would settle it."""
    found = judged({}, NEAR)
    assert "neither that it is gone nor that it is still there was shown" in found.scope
    assert any(sentence.startswith("Not shown to be within the margin: instruction 0.10 [") for sentence in found.explanation)
    assert "open is instruction" in found.next_step
    assert "more references hardly" in found.next_step
    small = judged({"references": 3, "model_spread": 0.15}, None)
    assert small.verdict == "INCONCLUSIVE"
    assert "neither a residual beyond the margin nor equivalence was shown (C1" in " ".join(small.explanation)


@pytest.mark.slow
def test_a_channel_without_power_accuses_nobody_and_certifies_nothing() -> None:
    """Where the original shows too little there is no statement; where the channel is noisy it does not stand in the way."""
    faint = judged({}, {"no prompt": 0.0}, gap=0.2)
    (exact, channel) = faint.channels
    assert (faint.verdict, channel.valid, channel.certifiable) == ("EQUIVALENT_WITHIN", False, False)
    assert "too little" in channel.reason
    assert "No statement is possible on: no prompt." in faint.explanation
    assert "It was asked in other ways, too, on none of which a statement is possible: no prompt." in faint.scope
    assert "It was not asked" not in faint.scope
    noisy = judged({}, {"no prompt": 0.0}, noise=0.9, subject_size=1)
    (exact, channel) = noisy.channels
    assert (noisy.verdict, channel.valid, channel.certifiable) == ("EQUIVALENT_WITHIN", True, False)
    assert "Too imprecise to certify, and not found beyond the margin: no prompt." in noisy.explanation
    assert exact.certified
    assert noisy.tiers == (REFERENCES, OTHERWISE), "it could have accused"
    assert faint.tiers == (REFERENCES,)


@pytest.mark.slow
def test_a_channel_that_one_model_was_not_asked_on_is_left_out() -> None:
    """Channels are compared over the same models; one reference without a channel takes it out, and nothing crashes."""
    table = with_channels(simulated_table(references=8), KNOWN)
    blocks = dict(table.blocks)
    block = blocks["reference 3", "holdout"]
    kept = {name: loss for name, loss in block.channels.items() if name != "rewording 1"}
    blocks["reference 3", "holdout"] = replace(block, channels=kept)
    assert [channel.name for channel in judge(ScoreTable(blocks), SETTINGS, Aside(BLIND)).channels] == [
        "exact text",
        "instruction",
        "layer 1",
    ]


@pytest.mark.slow
def test_unscored_records_are_left_out_of_their_channel() -> None:
    """A record without a rewording is NaN there; the others are judged."""
    table = with_channels(simulated_table(references=8), KNOWN)
    blocks = {
        key: replace(
            block, channels={name: np.where(np.arange(len(loss)) < 40, np.nan, loss) for name, loss in block.channels.items()}
        )
        for key, block in table.blocks.items()
    }
    found = judge(ScoreTable(blocks), SETTINGS, Aside(BLIND))
    assert found.verdict == "NOT_FORGOTTEN"
    assert [channel.subjects for channel in found.channels] == [25, 15, 15, 15]


def test_rule_1_asks_in_no_other_way() -> None:
    """Registered under rule 1, an audit is judged by rule 1, whatever the table holds."""
    found = judged({}, KNOWN, Settings(planted_draws=40, rule=1))
    assert (found.verdict, found.channels, found.smallest_margin, found.weak) == ("EQUIVALENT_WITHIN", (), None, ())
    assert "channel" not in found.scope


@pytest.mark.slow
def test_the_smallest_margin_is_where_the_same_audit_begins_to_certify() -> None:
    """Judged at that margin the model is certified, a thousandth below it is not; a model that kept half has none."""
    for truth, kept in (({}, HONEST), ({}, NEAR), ({"controls": 0}, None)):
        found = judged(truth, kept)
        assert found.smallest_margin is not None
        for margin, word in ((found.smallest_margin, True), (found.smallest_margin - 0.001, False)):
            again = judged(truth, kept, Settings(planted_draws=40, margin=margin))
            blocked = any(gate.passed is False and "record" in gate.claims for gate in again.gates)
            assert (again.verdict == "EQUIVALENT_WITHIN") is (word and not blocked), (margin, again.explanation)
    assert judged({}, KNOWN).smallest_margin is None


@pytest.mark.parametrize("kept", [0.04, 0.08, 0.12, 0.14])
def test_the_smallest_margin_is_no_less_than_a_channel_shows(kept: float) -> None:
    """A channel that could certify stays in the way at smaller margins, where its noise alone would take it out of the question."""
    table = with_channels(simulated_table(references=8, model_spread=0.02), {"rewording 1": kept}, noise=0.3, subject_size=1)
    references = [model for model in table.models() if model.startswith("reference")]
    tests = ReferenceTests.of(table, references)
    margins = [step / 100 for step in range(1, 50)]
    words = [tests.judge(table, SETTINGS, margin).word(()) for margin in margins]
    first = words.index("EQUIVALENT_WITHIN")
    assert set(words[first:]) == {"EQUIVALENT_WITHIN"}
    found = judge(table, SETTINGS, Aside(BLIND))
    assert found.smallest_margin is not None
    assert margins[first - 1] < found.smallest_margin <= margins[first]
    residuals = {channel.name: channel.residual for channel in found.channels if channel.certifiable}
    assert residuals.keys() == {"exact text", "rewording 1"}
    assert all(abs(one.value) < found.smallest_margin for one in residuals.values() if one is not None)
    # Registered at half the margin, that channel is too noisy to be asked for a certificate.
    narrow = judge(table, SETTINGS.model_copy(update={"margin": 0.05}), Aside(BLIND))
    assert [one.name for one in narrow.channels if one.certifiable] == ["exact text"]


@pytest.mark.slow
def test_a_reference_that_stands_out_on_a_channel_stops_the_audit() -> None:
    """The negative control asks references otherwise, too."""
    table = with_channels(simulated_table(references=5), HONEST)
    blocks = dict(table.blocks)
    block = blocks["reference 2", "forget"]
    blocks["reference 2", "forget"] = replace(block, channels=block.channels | {"layer 1": block.channels["layer 1"] - 1.5})
    found = judge(ScoreTable(blocks), SETTINGS, Aside(BLIND))
    gate = next(gate for gate in found.gates if gate.name == "negative control, asked otherwise")
    assert (found.verdict, gate.passed) == ("NOT_TESTABLE", False)
    assert "reference 2 on layer 1" in gate.reason


def contaminated(share: float, references: int = 4, gap: float = 2.2) -> ScoreTable:
    """A table whose references, target and original hold the same share of the forget set."""
    table = with_channels(simulated_table(references=references, records=160, gap=gap), HONEST)
    blocks = dict(table.blocks)
    held = np.arange(160) < round(share * 160)
    original = blocks["original", "forget"].loss
    for model in ("target", *(f"reference {number}" for number in range(1, references + 1))):
        block: ScoreBlock = blocks[model, "forget"]
        noise = 0.1 * np.random.default_rng(sum(map(ord, model))).standard_normal(160)
        blocks[model, "forget"] = replace(block, loss=np.where(held, original + noise, block.loss))
    return ScoreTable(blocks)


@pytest.mark.slow
def test_references_that_hold_the_records_are_noticed() -> None:
    """Half of the set in every reference: residual and gap vanish there, yet nothing is certified, and the reason is named."""
    found = judge(contaminated(0.5), SETTINGS, Aside(BLIND))
    gates = {gate.name: gate for gate in found.gates}
    assert found.verdict == "NOT_TESTABLE"
    assert gates["innocent references"].passed is False
    assert "may have been trained on some of the records" in gates["innocent references"].reason
    assert gates["memorized records"].passed is False
    assert len(found.weak) == 80
    few = judge(contaminated(0.1, references=8), SETTINGS, Aside(BLIND))
    assert few.verdict != "EQUIVALENT_WITHIN", "eight references are no easier to fool than four"
    assert len(few.weak) == 16


def test_innocence_needs_controls_of_the_same_kind() -> None:
    """Without controls, or with controls of another kind, the check says so and blocks nothing; no reference is suspected."""
    names = [f"reference {number}" for number in range(1, 5)]
    other = BLIND.model_copy(update={"value": 0.9, "high": 0.95})
    for table, settings, blind, said in (
        (simulated_table(controls=0), SETTINGS, None, "no never-trained controls"),
        (simulated_table(), SETTINGS, other, "of another kind of text"),
        (simulated_table(), SETTINGS, None, "could not be excluded"),
    ):
        gate = innocence_gate(table, names, settings, blind)
        assert (gate.passed, gate.blocks) == (None, "nothing")
        assert said in gate.reason
    assert innocence_gate(simulated_table(), names, Settings(twins=True), other).passed is True


def test_the_base_model_sharpens_the_innocence_check() -> None:
    """Subtracting what the base finds easy, a contamination shows that the spread of difficulty hides without it."""
    table = contaminated(0.5, gap=0.4)
    names = [f"reference {number}" for number in range(1, 5)]
    based = dict(table.blocks)
    rng = np.random.default_rng(5)
    honest = simulated_table(references=4, records=160, gap=0.4)
    for role in ("forget", "holdout"):
        block = honest.blocks["reference 1", role]  # type: ignore[index]
        based["base", role] = replace(block, loss=block.loss + 1.0 + 0.05 * rng.standard_normal(len(block.loss)))  # type: ignore[index]
    areas = [innocence_gate(one, names, SETTINGS, BLIND).value for one in (table, ScoreTable(based))]
    assert areas[0] is not None
    assert areas[1] is not None
    assert areas[1].low > areas[0].low


def test_honest_references_pass_the_innocence_check() -> None:
    """Known rate: over 60 simulated audits with four honest references, at most alpha of them fail, within chance."""
    failed = sum(
        innocence_gate(simulated_table(seed=seed, retain=False), [f"reference {n}" for n in range(1, 5)], SETTINGS, BLIND).passed
        is False
        for seed in range(60)
    )
    assert failed <= 8  # P[Binomial(60, 0.05) > 8] = 0.003


def test_records_that_were_never_memorized_are_named() -> None:
    """Known answer: three of forty records without a gap are more than a twentieth, two are not."""
    for count, passed in ((2, True), (3, False)):
        table = simulated_table(records=40)
        block = table.blocks["original", "forget"]
        references = table.losses([f"reference {n}" for n in range(1, 5)], "forget").mean(axis=0)
        loss = np.where(np.arange(40) < count, references, block.loss)
        table = ScoreTable({**table.blocks, ("original", "forget"): replace(block, loss=loss)})
        gate, weak = memorized_gate(table, [f"reference {n}" for n in range(1, 5)])
        assert (gate.passed, weak) == (passed, block.records[:count])


def test_controls_that_say_nothing_on_the_exact_texts_leave_them_to_the_references() -> None:
    """The references judge the exact texts and certify them; that controls show nothing there is said of the controls."""
    table = simulated_table(references=8)
    blocks = dict(table.blocks)
    held = table.blocks["original", "holdout"]
    blocks["original", "holdout"] = replace(held, loss=held.loss - 2.2)  # as if it had been trained on them
    found = judge(ScoreTable(blocks), SETTINGS, Aside(BLIND))
    assert (found.verdict, found.channels[0].valid) == ("EQUIVALENT_WITHIN", False)
    said = " ".join(found.explanation)
    assert "Against never-trained controls no statement is possible on the exact texts; the references alone judge them." in said
    assert "No statement is possible on" not in said
